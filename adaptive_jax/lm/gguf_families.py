"""What a GGUF file says of its model: its metadata as an `LMConfig`, and its tensors under Hugging Face's names.

llama.cpp's converter (`conversion/` in its repository) leaves out what llama.cpp knows of a family: which layers slide, what
queries are divided by, which layers have no rotary position. So it is known here, too. And it changes tensors: rows of query
and key weights of some families are permuted, pairs of rotary channels side by side; norms that a family stores around zero
are stored around one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from adaptive_jax.lm.config import FULL, SLIDING, LMConfig
from adaptive_jax.lm.rope import RopeConfig, rope_frequencies
from adaptive_jax.lm.weights import MLP_NORM, StoredTensor

ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}
# the parts of GGUF's tensor names, and what Hugging Face calls them
HF_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
FUSED_PARTS = {"ffn_up": "mlp.gate_up_proj"}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp stores a family.

    Attributes:
        family: a key of `FAMILIES`; its models with sliding layers are of `sliding_family`.
        permuted: rows of query and key weights are.
        wide_layers: with so many layers queries are divided by sqrt(hidden size / heads), and not by sqrt(head_dim).
    """

    family: str
    sliding_family: str | None = None
    permuted: bool = False
    wide_layers: int = 0


ARCHITECTURES = {
    "llama": Architecture("llama", permuted=True),  # and Mistral
    "mistral3": Architecture("ministral3", permuted=True),
    "smollm3": Architecture("smollm3", permuted=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", "gemma2", wide_layers=46),
    "gemma3": Architecture("gemma3_text", "gemma3_text", wide_layers=62),
    "olmo2": Architecture("olmo2", "olmo3"),
    "phi3": Architecture("phi3", "phi3"),
}


class _Fields:
    """A file's metadata, by the names behind that of the architecture; errors name file and field."""

    def __init__(self, metadata: Mapping[str, Any], file: Path):
        self._metadata, self._file, self._prefix = metadata, file, metadata["general.architecture"]

    def get(self, key: str) -> Any:
        """The field, or None."""
        return self._metadata.get(f"{self._prefix}.{key}")

    def need(self, key: str) -> Any:
        """The field. Raises ValueError where it is missing."""
        if (value := self.get(key)) is None:
            raise ValueError(f"{self._file}: metadata field '{self._prefix}.{key}' is missing; convert the model to GGUF again")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """The field, one positive number for all layers. Raises ValueError for anything else."""
        value = self.need(key) if default is None else self.get(key) or default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{self._file}: metadata field '{self._prefix}.{key}' is {value!r}; one positive integer was expected"
            )
        return value

    def refuse(self, key: str, *harmless: Any) -> None:
        """Raises ValueError where the field is there, and not one of those values."""
        if self.get(key) not in (None, *harmless):
            raise ValueError(
                f"{self._file}: metadata field '{self._prefix}.{key}' is {self.get(key)!r}, which is not supported"
            )


def read_config(
    metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor], file: Path, max_model_len: int | None = None
) -> LMConfig:
    """The config that a file's metadata describes, and those of its tensors that hold settings.

    Args:
        metadata, stored: of the file, as `gguf.read_header` gives them.
        file: for error messages.
        max_model_len: see `LMConfig.from_hf`.

    Raises:
        ValueError: an unknown architecture, a field is missing, or one asks for what is not supported. Names file and field.
    """
    name = metadata.get("general.architecture")
    form = ARCHITECTURES.get(str(name))
    if form is None:
        raise ValueError(
            f"{file}: general.architecture is {name!r}; of GGUF files {', '.join(ARCHITECTURES)} are supported: "
            "load the model's Hugging Face directory instead"
        )
    if "tokenizer.ggml.tokens" not in metadata:
        raise ValueError(f"{file}: metadata field 'tokenizer.ggml.tokens' is missing; convert the model to GGUF again")
    fields = _Fields(metadata, file)
    heads, hidden, layers = map(fields.size, ("attention.head_count", "embedding_length", "block_count"))
    head_dim = fields.size("attention.key_length", hidden // heads)
    window, pattern = (fields.get(f"attention.sliding_window{rest}") for rest in ("", "_pattern"))
    if form.sliding_family is None:
        fields.refuse("attention.sliding_window", 0)
    if name != "phi3":
        fields.refuse("rope.dimension_count", head_dim)
    fields.refuse("attention.value_length", head_dim)
    fields.refuse("attention.scale", 0.0)
    fields.refuse("expert_count", 0)
    content: dict[str, Any] = {
        "model_type": form.sliding_family if window and form.sliding_family else form.family,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": hidden,
        "intermediate_size": fields.size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields.size("context_length"),
        "rms_norm_eps": fields.need("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in stored,
        "query_pre_attn_scalar": hidden // heads if layers == form.wide_layers else head_dim,
        **_rope(fields, stored, head_dim),
    }
    if window is not None or name != "gemma2":  # of which the oldest files do not have it
        content["sliding_window"] = window or None
    if pattern is not None and window:
        slides = pattern if isinstance(pattern, list) else [bool((layer + 1) % pattern) for layer in range(layers)]
        content["layer_types"] = [SLIDING if slide else FULL for slide in slides]
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if fields.get(cap) is not None:
            content[cap] = fields.get(cap)
    config = replace(
        LMConfig.from_hf(content, file, max_model_len),
        qkv_bias="blk.0.attn_q.bias" in stored,
        output_bias="blk.0.attn_output.bias" in stored,
        mlp_bias="blk.0.ffn_up.bias" in stored,
    )
    if ROPE_FACTORS not in stored:
        return config
    return replace(config, rope=_llama3_rope(config, stored[ROPE_FACTORS], fields.get("rope.scaling.original_context_length")))


def _rope(fields: _Fields, stored: Mapping[str, StoredTensor], head_dim: int) -> dict[str, Any]:
    """Rotary position as config.json spells it."""
    fields.refuse("rope.scaling.type", "none", "linear", "yarn", "longrope")
    kind = fields.get("rope.scaling.type") or "none"
    if LONG_FACTORS["long_factor"] in stored:
        kind = "longrope"  # llama.cpp's converter does not write it for Phi
    scaling: dict[str, Any] = {"rope_type": "default" if kind == "none" else kind}
    if kind in ("linear", "yarn"):
        scaling["factor"] = fields.need("rope.scaling.factor")
    if kind in ("yarn", "longrope"):
        scaling["original_max_position_embeddings"] = fields.need("rope.scaling.original_context_length")
    if kind == "longrope":
        scaling |= {key: stored[name].read().tolist() for key, name in LONG_FACTORS.items() if name in stored}
        scaling["attention_factor"] = fields.get("rope.scaling.attn_factor")
    if kind == "yarn":
        fields.refuse("rope.scaling.yarn_ext_factor", -1.0, 1.0)
        scaling["attention_factor"] = fields.get("rope.scaling.yarn_attn_factor")
        scaling["beta_fast"], scaling["beta_slow"] = (fields.get(f"rope.scaling.yarn_beta_{end}") for end in ("fast", "slow"))
        if shared := fields.get("rope.scaling.yarn_log_multiplier"):
            scaling |= {"mscale": 1.0, "mscale_all_dim": shared}
    fields.refuse("attention.temperature_length", 0, scaling.get("original_max_position_embeddings"))
    entries = {
        "rope_parameters": scaling | {"llama_4_scaling_beta": fields.get("attention.temperature_scale")},
        "rope_theta": fields.get("rope.freq_base"),
        "rope_local_base_freq": fields.get("rope.freq_base_swa"),
        "partial_rotary_factor": fields.size("rope.dimension_count", head_dim) / head_dim,
    }
    return {key: value for key, value in entries.items() if value is not None}


def _llama3_rope(config: LMConfig, factors: StoredTensor, original: int | None) -> RopeConfig:
    """The scaling behind a tensor of one divisor per frequency: the file keeps Llama 3's result, not its settings.

    The largest divisor is the factor; the other settings are those of every Llama 3.1 to 3.3, and are checked.
    """
    divisors = factors.read()
    rope = replace(config.rope, kind="llama3", factor=float(divisors.max()))
    rope = rope if original is None else replace(rope, original_max_position=original)
    expected = rope_frequencies(config.rope, config.head_dim) / rope_frequencies(rope, config.head_dim)
    if factors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(
            f"{factors.file}: tensor {ROPE_FACTORS!r} is not the rope scaling of Llama 3.1 to 3.3; "
            "load the model's Hugging Face directory instead"
        )
    return rope


def hf_tensors(metadata: Mapping[str, Any], stored: Mapping[str, StoredTensor], config: LMConfig) -> dict[str, StoredTensor]:
    """The tensors under Hugging Face's names, in Hugging Face's order and around Hugging Face's zero."""
    parts = HF_PARTS | {"ffn_norm": MLP_NORM.get(config.form.norms, "ffn_norm")} | (FUSED_PARTS if config.form.fused else {})
    permuted = ARCHITECTURES[metadata["general.architecture"]].permuted
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads} if permuted else {}
    renamed = {}
    for name, tensor in stored.items():
        own = name.split(".")
        for part in own:
            if part in heads:
                tensor = replace(tensor, read=_unpermuted(tensor.read, heads[part]))
        if config.form.norm_offset and name.endswith("norm.weight"):
            tensor = replace(tensor, read=_around_zero(tensor.read, config.form.norm_offset))
        if name not in (ROPE_FACTORS, *LONG_FACTORS.values()):
            renamed[".".join(parts.get(part, part) for part in own)] = tensor
    return renamed


def _unpermuted(read: Callable[[], np.ndarray], heads: int) -> Callable[[], Shaped[np.ndarray, "outputs ..."]]:
    """Rows (head, channel pair, first or second) back to Hugging Face's (head, first or second, channel pair)."""

    def unpermuted() -> Shaped[np.ndarray, "outputs ..."]:
        rows = read()
        return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    return unpermuted


def _around_zero(read: Callable[[], np.ndarray], offset: float) -> Callable[[], Float[np.ndarray, " channels"]]:
    """A norm's scale without what the family adds to it."""
    return lambda: read() - np.float32(offset)
