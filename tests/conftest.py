"""Strict numerics for every test: implicit rank promotion and implicit dtype promotion raise."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may depend on a hub being reachable."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
