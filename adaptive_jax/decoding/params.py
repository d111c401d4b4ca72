"""Sampling parameters: how a token is drawn from a language model's logits, as a pytree.

The same struct serves three roles: one setting (scalars), the settings of the rows of a batch (arrays [B]) and an
action space (arrays [A]), in which an action is an index: `space[actions]` gives every row its own setting.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Value = Any  # a Python or NumPy number, or an array of them; a jax.Array wherever `broadcast` made it

_DTYPES = {"temperature": jnp.float32, "top_k": jnp.int32, "top_p": jnp.float32, "min_p": jnp.float32}


@struct.dataclass
class SamplingParams:
    """Temperature and filters, applied in this order; every field is a scalar or an array with one leading shape.

    Concrete values are checked on construction; traced ones are taken as they are.

    Attributes:
        temperature: float, at least 0; logits are divided by it. 0 is greedy: the first of the largest logits.
        top_k: int, at least 0; keeps the k largest logits and all ties of the k-th. 0 keeps every token.
        top_p: float in (0, 1]; keeps the most probable tokens until their mass, relative to what top-k left,
            reaches top_p; the token that crosses it, and its ties, stay. 1 keeps every token.
        min_p: float in [0, 1]; keeps the tokens at least min_p times as probable as the most probable one.

    Raises:
        ValueError: a concrete value is NaN, out of range or not a number; the message names the field.
    """

    temperature: Value = 1.0
    top_k: Value = 0
    top_p: Value = 1.0
    min_p: Value = 0.0

    def __post_init__(self) -> None:
        for name, value in self._fields():
            if _is_concrete(value):
                _check(name, np.asarray(value))

    def __len__(self) -> int:
        """Size of the leading axis; TypeError for a single setting, as for any scalar."""
        shape = self._shape()
        if not shape:
            raise TypeError("one setting (scalar sampling parameters) has no length; use .broadcast(rows) or .stack([...])")
        return shape[0]

    def __getitem__(self, index: int | slice | np.ndarray | jax.Array) -> "SamplingParams":
        """Settings at `index` along the leading axis: actions int32 [B] into settings [A] give settings [B]."""
        settings = self.broadcast(len(self))
        return jax.tree.map(lambda field: field[index], settings)

    def broadcast(self, rows: int) -> "SamplingParams":
        """Every field as an array [rows], float32 (top_k int32). ValueError names a field that does not fit."""
        fields = {}
        for name, value in self._fields():
            if np.shape(value) not in ((), (rows,)):
                raise ValueError(f"{name} has shape {np.shape(value)}; a batch of {rows} rows takes () or ({rows},)")
            fields[name] = jnp.broadcast_to(jnp.asarray(value, _DTYPES[name]), (rows,))
        return SamplingParams(**fields)

    @classmethod
    def stack(cls, settings: Sequence["SamplingParams"]) -> "SamplingParams":
        """Several single settings as one of shape [A], for example an action space."""
        return cls(**{name: jnp.asarray([getattr(s, name) for s in settings], dtype) for name, dtype in _DTYPES.items()})

    def _fields(self) -> list[tuple[str, Value]]:
        return [(name, getattr(self, name)) for name in _DTYPES]

    def _shape(self) -> tuple[int, ...]:
        return max((np.shape(value) for _, value in self._fields()), key=len)


def _is_concrete(value: object) -> bool:
    """Whether the value is meant as a setting and can be looked at.

    Not so tracers, shards on other hosts, and what tree transformations put into a struct: placeholders, truth values.
    """
    if isinstance(value, jax.Array):
        return not isinstance(value, jax.core.Tracer) and value.is_fully_addressable and value.dtype != bool
    return isinstance(value, (int, float, str, list, tuple, np.ndarray, np.generic)) and np.asarray(value).dtype != bool


def _check(name: str, value: np.ndarray) -> None:
    """Raises ValueError unless every element is in the field's range."""
    if value.dtype.kind not in "iuf" or value.ndim > 1:
        raise ValueError(f"{name} must be a number or an array of numbers with one axis, got {value!r}")
    if name == "temperature":
        valid, wanted = (value >= 0) & (value <= np.finfo(np.float32).max), "at least 0 and finite (0 is greedy)"
    elif name == "top_k":
        valid, wanted = (
            (value >= 0) & (value < 2**31) & (value == np.round(value)),
            "an integer from 0 (switches it off) to 2^31 - 1",
        )
    elif name == "top_p":
        valid, wanted = (value > 0) & (value <= 1), "in (0, 1] (1 switches it off)"
    else:
        valid, wanted = (value >= 0) & (value <= 1), "in [0, 1] (0 switches it off)"
    if not valid.all():
        raise ValueError(f"{name} must be {wanted}, got {value[~valid][0] if value.ndim else value[()]}")


def setting_name(setting: SamplingParams) -> str:
    """Such as "T 0.7, top-p 0.9"; "greedy" for temperature 0."""
    if not setting.temperature:
        return "greedy"
    filters = [
        f"{word} {value:g}"
        for word, value, off in (
            ("top-k", setting.top_k, 0),
            ("top-p", setting.top_p, 1),
            ("min-p", setting.min_p, 0),
        )
        if value != off
    ]
    return ", ".join([f"T {setting.temperature:g}", *filters])


def action_names(actions: SamplingParams) -> list[str]:
    """The names of an action space of shape [A]."""
    fields = {name: np.asarray(value) for name, value in vars(actions).items()}
    count = max(value.size for value in fields.values())
    columns = {name: np.broadcast_to(value, (count,)).tolist() for name, value in fields.items()}
    return [setting_name(SamplingParams(**{name: column[i] for name, column in columns.items()})) for i in range(count)]
