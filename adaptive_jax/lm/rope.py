"""Rotary position embedding: its settings as config.json spells them, and the rotation of each pair of channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

KINDS = ("default", "linear", "llama3", "dynamic", "yarn", "longrope", "proportional")
EARLIER_NAMES = {"su": "longrope"}


def positive(value: Any, name: str, where: Path | str) -> float:
    """The number of field `name`.

    Raises:
        ValueError: it is none, not finite, or not above zero. Names file and field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{where}: field {name!r} is {value!r}; a positive number was expected")
    return float(value)


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        theta: base of the rotation frequencies.
        kind: "default", "linear" (positions divided by `factor`), "llama3" (Llama 3.1's piecewise rescaling), "dynamic" (a base
            that grows with the text), "yarn" (arXiv 2309.00071), "longrope" (arXiv 2402.13753) or "proportional" (the share
            `partial` of a head's pairs turns, the fastest ones, as fast as if all did).
        factor, low_freq_factor, high_freq_factor, original_max_position: the scaling's own numbers, unused by
            "default".
        partial: share of a head's channels that are rotated, the first ones.
        attention_factor: cos and sin are multiplied by it (yarn, longrope).
        beta_fast, beta_slow, truncate: which wavelengths yarn blends, and whether their bounds are whole channels.
        short_factor, long_factor: longrope's divisors of each frequency, for short and for long texts.
        long: which of them are used, for all texts: they change what is cached. transformers goes by each text's length, and
            computes one that outgrows `original_max_position` anew.
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    partial: float = 1.0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    long: bool = False

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: Path | str, default_theta: float = 10_000.0) -> "RopeConfig":
        """Read `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).

        Args:
            config: the object of config.json.
            where: its file, for error messages.
            default_theta: the family's, where the file does not say.

        Raises:
            ValueError: a scaling of another kind, or one of its numbers missing.
        """
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        rope = config.get(key) or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{where}: {key!r} is a JSON {type(rope).__name__}; an object or null was expected")
        if any(isinstance(value, dict) for value in rope.values()):
            raise ValueError(f"{where}: {key!r} differs between layers; this family has one setting for all layers")
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        kind = EARLIER_NAMES.get(kind, kind)
        if kind not in KINDS:
            raise ValueError(f"{where}: {key!r} asks for rope type {kind!r}; supported: {', '.join(KINDS)}")

        def number(name: str, default: Any = None) -> float:
            value = rope.get(name)
            value = default if value is None else value
            if value is None:
                raise ValueError(f"{where}: {key!r} of type {kind!r} lacks {name!r}")
            return positive(value, name, where)

        longest = config.get("max_position_embeddings")
        read: dict[str, Any] = {
            "theta": number("rope_theta", config.get("rope_theta") or default_theta),
            "partial": number("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0),
        }
        if read["partial"] > 1:
            raise ValueError(f"{where}: 'partial_rotary_factor' is {read['partial']}; at most 1 was expected")
        if kind == "default":
            return cls(**read)
        if kind == "dynamic":
            return cls(
                **read,
                kind=kind,
                factor=number("factor"),
                original_max_position=int(positive(longest, "max_position_embeddings", where)),
            )
        if kind == "proportional":
            return cls(**read, kind=kind, factor=number("factor", 1.0))
        original = config.get("original_max_position_embeddings") or longest
        if kind in ("yarn", "longrope", "llama3"):
            read["original_max_position"] = int(number("original_max_position_embeddings", original))
        if kind == "longrope":
            factor = number("factor", positive(longest, "max_position_embeddings", where) / read["original_max_position"])
            read |= {name: _numbers(rope.get(name), name, where) for name in ("short_factor", "long_factor")}
            longer = math.sqrt(1 + math.log(factor) / math.log(read["original_max_position"])) if factor > 1 else 1.0
            return cls(**read, kind=kind, factor=factor, attention_factor=number("attention_factor", longer))
        read["factor"] = number("factor")
        if kind == "yarn":
            read |= {
                "attention_factor": number("attention_factor", _yarn_attention(read["factor"], rope)),
                "beta_fast": number("beta_fast", cls.beta_fast),
                "beta_slow": number("beta_slow", cls.beta_slow),
                "truncate": bool(rope.get("truncate", True)),
            }
        if kind == "llama3":
            read |= {name: number(name) for name in ("low_freq_factor", "high_freq_factor")}
        return cls(**read, kind=kind)

    def to_hf(self) -> dict[str, Any]:
        """The `rope_theta` and `rope_scaling` entries of a config.json, a spelling that every transformers reads."""
        scaling: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind in ("llama3", "yarn", "longrope"):
            scaling["original_max_position_embeddings"] = self.original_max_position
        if self.kind == "llama3":
            scaling |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        if self.kind in ("yarn", "longrope"):
            scaling["attention_factor"] = self.attention_factor
        if self.kind == "yarn":
            scaling |= {"beta_fast": self.beta_fast, "beta_slow": self.beta_slow, "truncate": self.truncate}
        if self.kind == "longrope":
            scaling |= {"short_factor": list(self.short_factor), "long_factor": list(self.long_factor)}
        entries = {"rope_theta": self.theta, "rope_scaling": None if self.kind == "default" else scaling}
        return entries if self.partial == 1.0 else entries | {"partial_rotary_factor": self.partial}

    def rotated(self, head_dim: int) -> int:
        """How many channels of a head are rotated, some perhaps at frequency 0; even."""
        return head_dim if self.kind == "proportional" else int(head_dim * self.partial)


def _numbers(value: Any, name: str, where: Path | str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError(
            f"{where}: field {name!r} is {value!r}; a list of numbers, one for each pair of channels, was expected"
        )
    return tuple(positive(number, name, where) for number in value)


def _yarn_attention(factor: float, rope: Mapping[str, Any]) -> float:
    """YaRN's factor on cos and sin where the config does not name it: 0.1 ln(factor) + 1 (arXiv 2309.00071, eq. 22)."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)


def rope_frequencies(
    rope: RopeConfig, head_dim: int, lengths: Int32[Array, " rows"] | None = None
) -> Float32[Array, " pairs"] | Float32[Array, "rows pairs"]:
    """Rotation per position of each pair of channels, in radians; of each row's where it depends on the text.

    Source: RoFormer (arXiv 2104.09864) eq. 15; "llama3" as in the Llama 3.1 release: wavelengths longer than
    `original_max_position / low_freq_factor` are slowed by `factor`, short ones are kept, with a linear blend between. "yarn":
    arXiv 2309.00071, eq. 20 and 21. "dynamic" as in transformers: by how long the text is now; what is cached already stays
    as it was rotated, there as here.

    Args:
        rope: the settings.
        head_dim: channels of a head, of which the first ones are rotated (see `RopeConfig.rotated`).
        lengths: tokens of each text up to now; None for texts no longer than the model was trained for.
    """
    rotated = rope.rotated(head_dim)
    powers = jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated
    inverse = 1.0 / rope.theta**powers
    if rope.kind == "proportional":
        inverse = jnp.where(jnp.arange(rotated // 2) < int(rope.partial * head_dim // 2), inverse, 0.0)
    if rope.kind in ("linear", "proportional"):
        return inverse / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * math.pi / inverse
        smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        smooth = jnp.clip(smooth, 0.0, 1.0)
        return (1 - smooth) * inverse / rope.factor + smooth * inverse
    if rope.kind == "yarn":
        low, high = (_turning(rope, rotated, turns) for turns in (rope.beta_fast, rope.beta_slow))
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rotated - 1)
        slowed = jnp.clip((jnp.arange(rotated // 2, dtype=jnp.float32) - low) / max(high - low, 0.001), 0.0, 1.0)
        return slowed * inverse / rope.factor + (1 - slowed) * inverse
    if rope.kind == "longrope":
        return inverse / jnp.asarray(rope.long_factor if rope.long else rope.short_factor, jnp.float32)
    if rope.kind == "dynamic" and lengths is not None:
        longest = jnp.maximum(lengths, rope.original_max_position).astype(jnp.float32)
        growth = rope.factor * longest / rope.original_max_position - (rope.factor - 1.0)
        base = rope.theta * growth ** (rotated / (rotated - 2))
        return 1.0 / base[:, None] ** powers[None]
    return inverse


def _turning(rope: RopeConfig, rotated: int, turns: float) -> float:
    """The pair of channels that turns so many times over the original context (arXiv 2309.00071, eq. 17 solved for d)."""
    return rotated * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
