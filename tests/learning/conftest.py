"""Optax's Adam mixes dtypes; it alone is excused from the strict promotion that the rest of the code is held to."""

from typing import Any

import jax
import optax
import pytest


@pytest.fixture(autouse=True)
def _lenient_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    adam = optax.adam

    def lenient(learning_rate: float) -> optax.GradientTransformation:
        optimizer = adam(learning_rate)

        def update(*operands: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*operands)

        return optax.GradientTransformation(optimizer.init, update)

    monkeypatch.setattr(optax, "adam", lenient)
