"""What tells the supported families of language models apart: one description each, a table of switches.

A new family is a new entry here and a golden file (see the library's README); the transformer itself knows no family.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Config = Mapping[str, Any]


def every_nth_full(n: int) -> Callable[[Config, int], list[bool]]:
    """Layers slide but for every n-th."""
    return lambda config, layers: [bool((i + 1) % int(config.get("sliding_window_pattern") or n)) for i in range(layers)]


def all_slide(config: Config, layers: int) -> list[bool]:
    """All layers slide."""
    return [True] * layers


def late_layers_slide(config: Config, layers: int) -> list[bool]:
    """Qwen: with `use_sliding_window`, the layers from `max_window_layers` on."""
    first = config.get("max_window_layers", 28) if config.get("use_sliding_window") else layers
    return [i >= first for i in range(layers)]


def unrotated_layers_slide(config: Config, layers: int) -> list[bool]:
    """SmolLM3: with `use_sliding_window`, the layers without rotary position."""
    return [not rotated for rotated in rotated_layers(config, layers)]


def rotated_layers(config: Config, layers: int) -> list[bool]:
    """Which layers have rotary position, by `no_rope_layers` or else by `no_rope_layer_interval`."""
    every = config.get("no_rope_layer_interval") or 4
    return [bool(flag) for flag in config.get("no_rope_layers") or [(i + 1) % every for i in range(layers)]]


def none_slides(config: Config, layers: int) -> list[bool]:
    """No layer slides."""
    return [False] * layers


SWITCHED = (late_layers_slide, unrotated_layers_slide)  # where windows are off unless `use_sliding_window` is set


@dataclass(frozen=True)
class Family:
    """The switches of a family. Fields of config.json decide where a family leaves a choice.

    Attributes:
        architecture: its class in transformers.
        qkv_bias, attention_bias, mlp_bias: a bias on query, key and value always; on all of attention, or on the MLP's linear
            layers, if config.json's field of that name says so.
        qk_norm: RMSNorm of queries and keys, over each head or over the whole projection.
        norms: "before" attention and MLP, "after" them (on what is added), or "both".
        norm_offset: added to a norm's scale: Gemma stores it around zero.
        scaled_embedding: embeddings are multiplied by sqrt(hidden size).
        capped: config.json may ask for a soft cap of the logits and for its own attention scale (`query_pre_attn_scalar`).
        score_capped: and for a soft cap of attention's scores.
        activation_field, activation: the MLP's, where config.json says it, and what it is if not there.
        fused: query, key and value are stored as one tensor, and so are gate and up.
        slides: which layers attend through the window where config.json has no `layer_types`.
        local_rope: sliding layers have a rotary base of their own, `rope_local_base_freq`, and no scaling.
        local_theta: that base where config.json does not say; None for the other layers' one.
        unrotated: every n-th layer has no rotary position, by `no_rope_layers` or `no_rope_layer_interval`.
        query_growth: queries grow with the logarithm of the position (`llama_4_scaling_beta`).
        head_dim: where config.json does not say; None for hidden size / heads.
        theta: rotary base where config.json does not say.
        tied: whether the LM head is the embedding, where config.json does not say.
        assumed: other fields, and what transformers takes for one that config.json leaves out.
    """

    architecture: str
    qkv_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    norms: Literal["before", "after", "both"] = "before"
    norm_offset: float = 0.0
    scaled_embedding: bool = False
    capped: bool = False
    score_capped: bool = False
    activation_field: str = "hidden_act"
    activation: str = "silu"
    fused: bool = False
    slides: Callable[[Config, int], list[bool]] = none_slides
    local_rope: bool = False
    local_theta: float | None = None
    unrotated: bool = False
    query_growth: bool = False
    head_dim: int | None = None
    theta: float = 10_000.0
    tied: bool = False
    assumed: Mapping[str, Any] = field(default_factory=dict)


WINDOW = {"sliding_window": 4096}
QWEN_ASSUMED = WINDOW | {"num_key_value_heads": 32}
MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
GEMMA_ASSUMED = WINDOW | {"query_pre_attn_scalar": 256, "num_key_value_heads": 4}
GEMMA = {
    "norms": "both",
    "norm_offset": 1.0,
    "scaled_embedding": True,
    "capped": True,
    "attention_bias": True,
    "activation_field": "hidden_activation",
    "activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "tied": True,
}
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, slides=late_layers_slide, assumed=QWEN_ASSUMED),
    "qwen3": Family(
        "Qwen3ForCausalLM", attention_bias=True, qk_norm="head", head_dim=128, slides=late_layers_slide, assumed=QWEN_ASSUMED
    ),
    "mistral": Family("MistralForCausalLM", slides=all_slide, assumed=WINDOW | {"num_key_value_heads": 8}),
    "ministral": Family("MinistralForCausalLM", slides=all_slide, assumed=WINDOW | {"num_key_value_heads": 8}),
    "ministral3": Family(
        "Ministral3ForCausalLM",
        slides=all_slide,
        head_dim=128,
        query_growth=True,
        theta=1_000_000.0,
        assumed={"num_key_value_heads": 8, "rope_parameters": MINISTRAL3_ROPE},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        score_capped=True,
        slides=every_nth_full(2),
        assumed=GEMMA_ASSUMED | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        **GEMMA,  # type: ignore[arg-type]
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        qk_norm="head",
        slides=every_nth_full(6),
        local_rope=True,
        local_theta=10_000.0,
        theta=1_000_000.0,
        assumed=GEMMA_ASSUMED,
        **GEMMA,  # type: ignore[arg-type]
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        attention_bias=True,
        mlp_bias=True,
        unrotated=True,
        slides=unrotated_layers_slide,
        theta=2_000_000.0,
        tied=True,
        assumed={"num_key_value_heads": 4},
    ),
    "olmo2": Family("Olmo2ForCausalLM", attention_bias=True, qk_norm="projection", norms="after"),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        attention_bias=True,
        qk_norm="projection",
        norms="after",
        slides=every_nth_full(4),
        local_rope=True,
        theta=500_000.0,
        assumed=WINDOW,
    ),
    "phi3": Family("Phi3ForCausalLM", fused=True, slides=all_slide),
}
# Models that read images, too, around a text model of one of these families: what transformers takes for fields that their
# `text_config` leaves out. Their text model is read, the rest is left alone.
AROUND_TEXT: dict[str, Mapping[str, Any]] = {
    "gemma3": {"vocab_size": 262208, "num_attention_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6},
    "mistral3": {},
}
# parts that other config.json files ask for, and the field that says so: refused by name
UNSUPPORTED = {
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "vision_config": "a vision tower",
    "audio_config": "an audio tower",
    "linear_num_key_heads": "linear attention",
    "linear_attn_config": "linear attention",
    "ssm_state_size": "a state-space model",
    "mamba_d_state": "a state-space model",
    "kv_lora_rank": "latent attention",
}
