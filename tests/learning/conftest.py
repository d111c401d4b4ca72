"""Optax's Adam mixes dtypes; it alone is excused from the strict promotion that the rest of the code is held to."""

import functools
from typing import Any

import jax
import optax
import pytest

ADAM = optax.adam


@functools.cache  # one optimiser per learning rate, so that updates are compiled once
def lenient_adam(learning_rate: float) -> optax.GradientTransformation:
    optimizer = ADAM(learning_rate)

    def update(*operands: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(*operands)

    return optax.GradientTransformation(optimizer.init, update)


@pytest.fixture(autouse=True)
def _lenient_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optax, "adam", lenient_adam)
