"""What shape a frozen language model has, in one frozen dataclass for the families Llama, Qwen2 and Qwen3.

`LMConfig.from_hf` reads a Hugging Face config.json and `LMConfig.to_hf` writes one. Reading refuses what
the transformer does not compute (sliding windows, other rope scalings, other activations, quantised weights) instead
of ignoring it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# keys of config.json that every supported family needs, and the field of LMConfig each one fills
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_positions",
}
QWEN3_HEAD_DIM = 128  # what transformers assumes when a Qwen3 config.json does not say


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or does not hold a JSON object. Both name it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); download or export it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a JSON {type(content).__name__}; an object was expected")
    return content


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
        kind: "default", "linear" (positions divided by `factor`) or "llama3" (Llama 3.1's piecewise rescaling).
        factor, low_freq_factor, high_freq_factor, original_max_position: the scaling's own numbers, unused by
            "default".
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: Path | str) -> "RopeConfig":
        """Read `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).

        Raises:
            ValueError: a scaling other than default, linear and llama3, or one of its numbers missing.
        """
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        rope = config.get(key) or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{where}: {key!r} is a JSON {type(rope).__name__}; an object or null was expected")
        if any(isinstance(value, dict) for value in rope.values()):
            raise ValueError(f"{where}: {key!r} differs between layers; only one setting for all layers is supported")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "linear", "llama3"):
            raise ValueError(f"{where}: {key!r} asks for rope type {kind!r}; supported: default, linear, llama3")
        if rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
            raise ValueError(f"{where}: 'partial_rotary_factor' is not 1; only rotation of whole heads is supported")

        def number(name: str, default: Any = None) -> float:
            value = rope.get(name, default)
            if value is None:
                raise ValueError(f"{where}: {key!r} of type {kind!r} lacks {name!r}")
            return positive(value, name, where)

        theta = number("rope_theta", config.get("rope_theta") or cls.theta)
        if kind == "linear":
            return cls(theta=theta, kind=kind, factor=number("factor"))
        if kind == "llama3":
            return cls(
                theta=theta,
                kind=kind,
                factor=number("factor"),
                low_freq_factor=number("low_freq_factor"),
                high_freq_factor=number("high_freq_factor"),
                original_max_position=int(number("original_max_position_embeddings", config.get("max_position_embeddings"))),
            )
        return cls(theta=theta)

    def to_hf(self) -> dict[str, Any]:
        """The `rope_theta` and `rope_scaling` entries of a config.json, a spelling that every transformers reads."""
        scaling: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            scaling |= {
                "low_freq_factor": self.low_freq_factor,
                "high_freq_factor": self.high_freq_factor,
                "original_max_position_embeddings": self.original_max_position,
            }
        return {"rope_theta": self.theta, "rope_scaling": None if self.kind == "default" else scaling}


@dataclass(frozen=True)
class LMConfig:
    """Shape of a decoder-only transformer. Sizes count elements; `max_positions` counts tokens.

    Attributes:
        family: "llama", "qwen2" or "qwen3".
        vocab_size: V. hidden_size: D. num_layers: L. num_heads: H. num_kv_heads: K.
        head_dim: width of one head; not necessarily D / H.
        qkv_bias, output_bias, mlp_bias: which linear layers carry a bias.
        qk_norm: RMSNorm over each query and key head (Qwen3).
        tie_embeddings: the LM head is the transposed embedding.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_embeddings: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: Path | str) -> "LMConfig":
        """Read the object in a Hugging Face config.json; `where` is the file's name, for error messages.

        Raises:
            ValueError: a field is missing, or asks for what this transformer does not compute. Names file and field.
        """
        family = config.get("model_type")
        architectures = config.get("architectures") or [ARCHITECTURES.get(str(family))]
        if family not in ARCHITECTURES or ARCHITECTURES[family] not in architectures:
            raise ValueError(
                f"{where}: 'model_type' {family!r} with 'architectures' {config.get('architectures')} is not "
                f"supported; choose a model of {', '.join(ARCHITECTURES.values())}"
            )

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name)
            value = default if value is None else value
            if value is None:
                raise ValueError(f"{where}: field {name!r} is missing; copy config.json from the model's own page")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}: field {name!r} is {value!r}; a positive integer was expected")
            return value

        sizes = {ours: size(theirs) for theirs, ours in SIZES.items()}
        heads, hidden = sizes["num_heads"], sizes["hidden_size"]
        kv_heads = size("num_key_value_heads", heads)
        head_dim = size("head_dim", QWEN3_HEAD_DIM if family == "qwen3" else hidden // heads)
        if heads % kv_heads:
            raise ValueError(f"{where}: 'num_attention_heads' {heads} is not a multiple of 'num_key_value_heads' {kv_heads}")
        if head_dim % 2:
            raise ValueError(f"{where}: 'head_dim' {head_dim} is odd; rotary position needs pairs of channels")
        if config.get("rms_norm_eps") is None:
            raise ValueError(f"{where}: field 'rms_norm_eps' is missing; copy config.json from the model's own page")
        if config.get("hidden_act", "silu") != "silu":
            raise ValueError(f"{where}: 'hidden_act' is {config['hidden_act']!r}; only 'silu' is supported")
        if config.get("quantization_config"):
            raise ValueError(f"{where}: 'quantization_config' is set; load the model's unquantised weights instead")
        if _slides(config, sizes["num_layers"]):
            raise ValueError(
                f"{where}: sliding window attention is on ('use_sliding_window', 'layer_types') and not supported; "
                "set 'use_sliding_window' to false and every entry of 'layer_types' to 'full_attention' "
                "if texts stay shorter than 'sliding_window'"
            )
        bias = bool(config.get("attention_bias", False)) and family != "qwen2"
        return cls(
            family=family,
            **sizes,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            norm_eps=positive(config["rms_norm_eps"], "rms_norm_eps", where),
            rope=RopeConfig.from_hf(config, where),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=bias or family == "qwen2",
            output_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
            qk_norm=family == "qwen3",
        )

    def to_hf(self) -> dict[str, Any]:
        """The object for a config.json from which `from_hf` reads this config back.

        Raises:
            ValueError: the config is not one of its family (for example Llama with query and key norms).
        """
        content: dict[str, Any] = {"model_type": self.family, "architectures": [ARCHITECTURES.get(self.family)]}
        content |= {theirs: getattr(self, ours) for theirs, ours in SIZES.items()}
        content |= {
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.output_bias,
            "mlp_bias": self.mlp_bias,
            **self.rope.to_hf(),
        }
        if LMConfig.from_hf(content, "this LMConfig") != self:
            raise ValueError(f"this LMConfig has settings that family {self.family!r} does not have: {self}")
        return content


def _slides(config: Mapping[str, Any], layers: int) -> bool:
    """Whether any layer attends through a sliding window (the reading of transformers' Qwen2Config)."""
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    on = bool(config.get("use_sliding_window")) and config.get("sliding_window") is not None
    return on and config.get("max_window_layers", 28) < layers  # 28 is transformers' default
