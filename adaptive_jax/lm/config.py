"""What shape a frozen language model has, in one frozen dataclass for all families (`families.py`).

`LMConfig.from_hf` reads a Hugging Face config.json and `LMConfig.to_hf` writes one. Reading refuses what
the transformer does not compute (experts, towers, other rope scalings and activations, quantised weights) instead
of ignoring it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptive_jax.lm.families import AROUND_TEXT, FAMILIES, SWITCHED, UNSUPPORTED, Family, none_slides, rotated_layers
from adaptive_jax.lm.rope import RopeConfig, positive

SUPPORTED = f"choose a model of {', '.join(family.architecture for family in FAMILIES.values())}"
# keys of config.json that every supported family needs, and the field of LMConfig each one fills
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_positions",
}
ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu")
SLIDING, FULL = "sliding_attention", "full_attention"


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


@dataclass(frozen=True)
class LMConfig:
    """Shape of a decoder-only transformer. Sizes count elements; `max_positions` (of a text) and `window` count tokens.

    Attributes:
        family: a key of `FAMILIES`.
        vocab_size: V. hidden_size: D. num_layers: L. num_heads: H. num_kv_heads: K.
        head_dim: width of one head; not necessarily D / H.
        rope, local_rope: rotary position, and that of sliding layers where the family tells them apart.
        qkv_bias, output_bias, mlp_bias: which linear layers carry a bias.
        qk_norm: RMSNorm of queries and keys, in the form that the family has.
        tie_embeddings: the LM head is the transposed embedding.
        activation: of the MLP's gate: "silu", "gelu_pytorch_tanh" or "gelu".
        sliding: L flags, which layers see the last `window` tokens only; empty if none does.
        unrotated: L flags, which layers have no rotary position; empty if none.
        attention_scale: scores are divided by its root; `head_dim` if None.
        score_cap, logit_cap: soft caps c of scores and logits, c tanh(x / c).
        query_growth: beta of queries times 1 + beta ln(1 + floor(position / original context)); 0 for none.
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
    activation: str = "silu"
    window: int | None = None
    sliding: tuple[bool, ...] = ()
    local_rope: RopeConfig | None = None
    unrotated: tuple[bool, ...] = ()
    attention_scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    query_growth: float = 0.0

    @property
    def form(self) -> Family:
        """The switches of its family."""
        return FAMILIES[self.family]

    @property
    def reach(self) -> int | None:
        """How many of a text's last tokens are looked at, the present one included; None for all."""
        return self.window if self.sliding and all(self.sliding) else None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: Path | str, max_model_len: int | None = None) -> "LMConfig":
        """Read the object in a Hugging Face config.json.

        Args:
            config: the object.
            where: the file's name, for error messages.
            max_model_len: most tokens of a text; None for the model's context. A longrope model has two: where more than the
                original context is asked for, the factors for long texts are used for all (vLLM's rule), otherwise the others.

        Raises:
            ValueError: a field is missing, or asks for what this transformer does not compute (names file and field), or
                `max_model_len` is beyond the model's context.
        """
        config = _text_part(config)
        family = str(config.get("model_type"))
        form = FAMILIES.get(family)
        asked = next((field for field in UNSUPPORTED if config.get(field)), None)
        if asked is not None:
            raise ValueError(f"{where}: field {asked!r} asks for {UNSUPPORTED[asked]}, which is not supported; {SUPPORTED}")
        if form is None or form.architecture not in (config.get("architectures") or [form.architecture]):
            raise ValueError(
                f"{where}: 'model_type' {config.get('model_type')!r} with 'architectures' {config.get('architectures')} is not "
                f"supported; {SUPPORTED}"
            )
        config = {**form.assumed, **config}

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name)
            value = default if value is None else value
            if value is None:
                raise ValueError(f"{where}: field {name!r} is missing; copy config.json from the model's own page")
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{where}: field {name!r} is {value!r}; a positive integer was expected")
            return value

        def optional(name: str) -> float | None:
            return None if config.get(name) is None else positive(config[name], name, where)

        sizes = {ours: size(theirs) for theirs, ours in SIZES.items()}
        heads, layers = sizes["num_heads"], sizes["num_layers"]
        kv_heads = size("num_key_value_heads", heads)
        head_dim = size("head_dim", form.head_dim or sizes["hidden_size"] // heads)
        if heads % kv_heads:
            raise ValueError(f"{where}: 'num_attention_heads' {heads} is not a multiple of 'num_key_value_heads' {kv_heads}")
        rope, local = _ropes(config, form, where)
        if max_model_len is not None and not 1 <= max_model_len <= sizes["max_positions"]:
            longest = sizes["max_positions"]
            raise ValueError(
                f"{where}: max_model_len {max_model_len} is not from 1 to the model's context, {longest} "
                "('max_position_embeddings')"
            )
        sizes["max_positions"] = max_model_len or sizes["max_positions"]
        if rope.kind == "longrope":
            if max_model_len is None:
                sizes["max_positions"] = min(sizes["max_positions"], rope.original_max_position)
            rope = replace(rope, long=sizes["max_positions"] > rope.original_max_position)
            for name in ("short_factor", "long_factor"):
                if 2 * len(getattr(rope, name)) != rope.rotated(head_dim):
                    pairs = rope.rotated(head_dim) // 2
                    raise ValueError(f"{where}: {name!r} has {len(getattr(rope, name))} numbers for {pairs} pairs of channels")
        if rope.rotated(head_dim) % 2:
            raise ValueError(f"{where}: 'head_dim' {head_dim} is odd; rotary position needs pairs of channels")
        if config.get("rms_norm_eps") is None:
            raise ValueError(f"{where}: field 'rms_norm_eps' is missing; copy config.json from the model's own page")
        activation = config.get(form.activation_field) or form.activation
        if activation not in ACTIVATIONS:
            raise ValueError(f"{where}: {form.activation_field!r} is {activation!r}; supported: {', '.join(ACTIVATIONS)}")
        if config.get("quantization_config"):
            raise ValueError(f"{where}: 'quantization_config' is set; load the model's unquantised weights instead")
        if config.get("use_bidirectional_attention"):
            raise ValueError(f"{where}: 'use_bidirectional_attention' is set: that is no language model that decodes")
        sliding = _sliding(config, form, layers, where)
        entries = config.get("rope_scaling") or config.get("rope_parameters") or {}
        growth = entries.get("llama_4_scaling_beta") if form.query_growth else None
        bias = bool(config.get("attention_bias", False)) and form.attention_bias
        return cls(
            family=family,
            **sizes,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            norm_eps=positive(config["rms_norm_eps"], "rms_norm_eps", where),
            rope=rope,
            tie_embeddings=bool(config.get("tie_word_embeddings", form.tied)),
            qkv_bias=bias or form.qkv_bias,
            output_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)) and form.mlp_bias,
            qk_norm=form.qk_norm is not None,
            activation=activation,
            window=size("sliding_window") if sliding else None,
            sliding=sliding,
            local_rope=local,
            unrotated=_unrotated(config, layers, where) if form.unrotated else (),
            attention_scale=optional("query_pre_attn_scalar") if form.capped else None,
            score_cap=optional("attn_logit_softcapping") if form.score_capped else None,
            logit_cap=optional("final_logit_softcapping") if form.capped else None,
            query_growth=float(growth or 0.0),
        )

    def to_hf(self) -> dict[str, Any]:
        """The object for a config.json from which `from_hf`, with this `max_positions`, reads this config back.

        Raises:
            ValueError: the config is not one of its family (for example Llama with query and key norms).
        """
        form = self.form
        content: dict[str, Any] = {"model_type": self.family, "architectures": [form.architecture]}
        content |= {theirs: getattr(self, ours) for theirs, ours in SIZES.items()}
        content |= {
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.norm_eps,
            form.activation_field: self.activation,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.output_bias,
            "mlp_bias": self.mlp_bias,
            **self.rope.to_hf(),
        }
        if form.slides is not none_slides:
            content["sliding_window"] = self.window
            content["layer_types"] = [SLIDING if slides else FULL for slides in self.sliding or [False] * self.num_layers]
        if form.slides in SWITCHED:
            content["use_sliding_window"] = self.window is not None
        whole = {"rope_type": "default", **(content["rope_scaling"] or {}), "rope_theta": self.rope.theta}
        if self.local_rope is not None:  # in the spelling of transformers 4, and of 5
            content["rope_local_base_freq"] = self.local_rope.theta
            content["rope_parameters"] = {FULL: whole, SLIDING: {"rope_type": "default", "rope_theta": self.local_rope.theta}}
        if form.unrotated:
            content["no_rope_layers"] = [int(not skipped) for skipped in self.unrotated or [False] * self.num_layers]
        if form.capped:
            scale = self.attention_scale
            content["query_pre_attn_scalar"] = (
                int(scale) if scale and scale == int(scale) else scale
            )  # transformers takes integers
            content |= {"attn_logit_softcapping": self.score_cap, "final_logit_softcapping": self.logit_cap}
        if self.rope.kind in ("yarn", "longrope"):
            content["original_max_position_embeddings"] = self.rope.original_max_position
        if form.query_growth:
            content |= {"rope_scaling": None, "rope_parameters": whole | {"llama_4_scaling_beta": self.query_growth}}
        if LMConfig.from_hf(content, "this LMConfig", self.max_positions) != self:
            raise ValueError(f"this LMConfig has settings that family {self.family!r} does not have: {self}")
        return content


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text model's part of a config, where a model around it reads images, too; otherwise the config."""
    around, text = str(config.get("model_type")), config.get("text_config")
    if around not in AROUND_TEXT or not isinstance(text, dict):
        return config
    shared = {key: config[key] for key in ("tie_word_embeddings", "quantization_config") if config.get(key) is not None}
    return {**AROUND_TEXT[around], **shared, **text, "architectures": None}


def _ropes(config: Mapping[str, Any], form: Family, where: Path | str) -> tuple[RopeConfig, RopeConfig | None]:
    """Rotary position, and that of sliding layers where the family has one; in the spelling of transformers 4 or 5."""
    entries = config.get("rope_parameters") or {}
    nested = {key: value for key, value in entries.items() if key in (FULL, SLIDING)} if isinstance(entries, dict) else {}
    if not form.local_rope:
        return RopeConfig.from_hf(config, where, form.theta), None
    if nested:
        ropes = [dict(config) | {"rope_parameters": nested.get(key) or {}, "rope_scaling": None} for key in (FULL, SLIDING)]
        full, local = (
            RopeConfig.from_hf(own, where, theta or form.theta)
            for own, theta in zip(ropes, (form.theta, form.local_theta), strict=True)
        )
        return full, local
    full = RopeConfig.from_hf(config, where, form.theta)
    theta = config.get("rope_local_base_freq") or form.local_theta or full.theta
    return full, RopeConfig(positive(theta, "rope_local_base_freq", where))


def _sliding(config: Mapping[str, Any], form: Family, layers: int, where: Path | str) -> tuple[bool, ...]:
    """L flags, which layers attend through the window; empty if none does."""
    kinds = config.get("layer_types")
    if kinds and (len(kinds) != layers or set(kinds) - {SLIDING, FULL}):
        said = f"{len(kinds)} entries of {sorted(set(kinds))}"
        raise ValueError(f"{where}: 'layer_types' has {said}; {layers} of {SLIDING!r} or {FULL!r} were expected")
    if form.slides is none_slides:
        return ()
    if config.get("sliding_window") is None or (form.slides in SWITCHED and not config.get("use_sliding_window")):
        if kinds and SLIDING in kinds:
            raise ValueError(
                f"{where}: 'layer_types' has {SLIDING!r}, but 'sliding_window' is missing or 'use_sliding_window' off"
            )
        return ()
    sliding = tuple(kind == SLIDING for kind in kinds) if kinds else tuple(form.slides(config, layers))
    return sliding if any(sliding) else ()


def _unrotated(config: Mapping[str, Any], layers: int, where: Path | str) -> tuple[bool, ...]:
    """L flags, which layers have no rotary position; empty if none."""
    rotated = rotated_layers(config, layers)
    if len(rotated) < layers:
        raise ValueError(f"{where}: 'no_rope_layers' has {len(rotated)} entries; {layers}, each 0 or 1, were expected")
    unrotated = tuple(not rotates for rotates in rotated[:layers])
    return unrotated if any(unrotated) else ()
