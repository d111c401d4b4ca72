"""For every test: implicit rank promotion and dtype promotion raise, and so do arrays of other shapes than signatures state."""

from pathlib import Path

import jax
import pytest

from tests.shapes import check_shapes

check_shapes()  # before anything of the package is imported
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Two workers take file after file; one that began the longest file last would keep the other waiting.
LONGEST = (
    "test_parallel.py",
    "test_math_token.py",
    "test_math_sequence.py",
    "test_code_sequence.py",
    "test_sandbox.py",
    "test_rollout.py",
    "test_command.py",
    "test_kills.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    items.sort(key=lambda item: Path(item.path).name not in LONGEST)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may depend on a hub being reachable."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
