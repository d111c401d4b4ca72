"""Optax's Adam mixes dtypes; it alone is excused from the strict promotion that the rest of the code is held to."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
import pytest

from adaptive_jax.learning import train


def lenient(make: Callable[..., optax.GradientTransformation]) -> Callable[..., optax.GradientTransformation]:
    @functools.cache  # one optimiser per learning rate, so that updates are compiled once
    def made(*settings: float, **others: float) -> optax.GradientTransformation:
        optimizer = make(*settings, **others)

        def update(*operands: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*operands)

        return optax.GradientTransformation(optimizer.init, update)

    return made


LENIENT = {name: lenient(getattr(optax, name)) for name in ("adam", "adamw")}


@pytest.fixture(autouse=True)
def _lenient_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in LENIENT.items():
        monkeypatch.setattr(optax, name, made)
    train.adam.cache_clear()  # an optimiser of a test elsewhere is not lenient
