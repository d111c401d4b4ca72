"""config.json of three families in every spelling, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from adaptive_jax.lm.config import LMConfig, read_json
from adaptive_jax.lm.families import FAMILIES
from adaptive_jax.lm.rope import RopeConfig, rope_frequencies

GOLDEN = Path(__file__).parent / "golden"
WHERE = "model/config.json"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
READ_LLAMA3 = RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 128)


def test_what_a_file_leaves_out_is_what_transformers_assumes() -> None:
    config = LMConfig.from_hf({k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "hidden_act")}, WHERE)
    assert (config.head_dim, config.num_kv_heads, config.rope) == (8, 4, RopeConfig(10_000.0))
    switches = (config.tie_embeddings, config.qkv_bias, config.output_bias, config.mlp_bias, config.qk_norm)
    assert not any(switches)


def test_families_differ_in_biases_norms_and_head_width() -> None:
    llama = LMConfig.from_hf(LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 6}, WHERE)
    assert (llama.qkv_bias, llama.output_bias, llama.mlp_bias, llama.head_dim) == (True, True, True, 6)
    qwen2 = LMConfig.from_hf(QWEN2 | {"tie_word_embeddings": True}, WHERE)
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm, qwen2.tie_embeddings) == (True, False, False, True)
    qwen3 = LMConfig.from_hf(QWEN3, WHERE)
    assert (qwen3.qkv_bias, qwen3.output_bias, qwen3.qk_norm, qwen3.head_dim) == (False, False, True, 128)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeConfig(5e5)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, RopeConfig(5e5)),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}, RopeConfig(5e5, "linear", 2.0)),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2}}, RopeConfig(5e5, "linear", 2.0)),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}}, READ_LLAMA3),
        ({"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 5e5}}, READ_LLAMA3),
    ],
)
def test_rope_settings_are_read_in_both_spellings(entries: dict[str, Any], expected: RopeConfig) -> None:
    assert LMConfig.from_hf(LLAMA | entries, WHERE).rope == expected


@pytest.mark.parametrize("rope", [RopeConfig(5e5), RopeConfig(1e4, "linear", 2.0), READ_LLAMA3])
@pytest.mark.parametrize("base", [LLAMA | {"attention_bias": True}, QWEN2, QWEN3 | {"tie_word_embeddings": True}])
def test_to_hf_is_read_back(base: dict[str, Any], rope: RopeConfig) -> None:
    config = LMConfig.from_hf(base | rope.to_hf(), WHERE)
    assert config.rope == rope
    assert LMConfig.from_hf(config.to_hf(), WHERE) == config


def test_to_hf_refuses_settings_that_the_family_does_not_have() -> None:
    config = LMConfig("llama", 61, 32, 48, 2, 4, 2, 8, 256, qk_norm=True)
    with pytest.raises(ValueError, match="settings that family 'llama' does not have"):
        config.to_hf()


@pytest.mark.parametrize(
    "entries",
    [
        {"sliding_window": 16},
        {"sliding_window": 16, "use_sliding_window": False},
        {"sliding_window": None, "use_sliding_window": True},
        {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2},
        {"sliding_window": 16, "use_sliding_window": True, "layer_types": ["full_attention"] * 2},
    ],
)
def test_a_sliding_window_that_is_off_does_not_matter(entries: dict[str, Any]) -> None:
    assert LMConfig.from_hf(QWEN2 | entries, WHERE) == LMConfig.from_hf(QWEN2, WHERE)


FAMILY = {
    family: {key: value for key, value in LLAMA.items() if key != "hidden_act"}
    | {"model_type": family, "architectures": [FAMILIES[family].architecture], "num_hidden_layers": 6}
    for family in FAMILIES
}
S, F = True, False
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}


@pytest.mark.parametrize(
    ("family", "entries", "expected"),
    [
        ("gemma2", {"sliding_window": 4096, "attn_logit_softcapping": 50.0}, {"sliding": (S, F) * 3, "score_cap": 50.0}),
        (
            "gemma2",
            {"query_pre_attn_scalar": 224, "final_logit_softcapping": None},
            {"attention_scale": 224, "logit_cap": None},
        ),
        ("gemma2", {}, {"window": 4096, "score_cap": 50.0, "logit_cap": 30.0, "attention_scale": 256}),
        ("gemma2", {}, {"head_dim": 256, "activation": "gelu_pytorch_tanh", "tie_embeddings": True}),
        ("gemma3_text", {"sliding_window": 512}, {"window": 512, "sliding": (S,) * 5 + (F,), "qk_norm": True}),
        ("gemma3_text", {"sliding_window": 512, "sliding_window_pattern": 2}, {"sliding": (S, F) * 3}),
        (
            "gemma3_text",
            {"attn_logit_softcapping": 50.0},
            {"score_cap": None, "rope": RopeConfig(1e6), "local_rope": RopeConfig(1e4)},
        ),
        (
            "gemma3_text",
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 2e6, "rope_local_base_freq": 500.0},
            {"rope": RopeConfig(2e6, "linear", 8.0), "local_rope": RopeConfig(500.0)},
        ),
        ("mistral", {}, {"window": 4096, "sliding": (S,) * 6}),
        ("mistral", {"sliding_window": None, "head_dim": None}, {"window": None, "sliding": (), "head_dim": 8}),
        ("ministral3", {}, {"window": None, "head_dim": 128, "query_growth": 0.1}),
        ("olmo3", {}, {"window": 4096, "sliding": (S, S, S, F, S, S)}),
        (
            "olmo3",
            {"rope_theta": 5e5, "rope_scaling": YARN},
            {
                "rope": RopeConfig(5e5, "yarn", 8.0, original_max_position=64, attention_factor=1.2),
                "local_rope": RopeConfig(5e5),
            },
        ),
        ("smollm3", {}, {"unrotated": (F, F, F, S, F, F), "window": None, "tie_embeddings": True, "rope": RopeConfig(2e6)}),
        ("smollm3", {"sliding_window": 16, "use_sliding_window": True}, {"window": 16, "sliding": (F, F, F, S, F, F)}),
        ("smollm3", {"sliding_window": 16, "no_rope_layers": [1] * 6}, {"unrotated": (), "window": None}),
        ("phi3", {"partial_rotary_factor": 0.75}, {"rope": RopeConfig(partial=0.75), "window": None}),
        ("llama", {"sliding_window": 16}, {"window": None}),
    ],
)
def test_families_read_their_files_and_assume_what_transformers_assumes(
    family: str, entries: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = LMConfig.from_hf(FAMILY[family] | entries, WHERE)
    assert {name: getattr(config, name) for name in expected} == expected
    assert LMConfig.from_hf(config.to_hf(), WHERE) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_s_file_leaves_out_is_what_its_class_in_transformers_takes(family: str) -> None:
    left_out = ("num_key_value_heads", "hidden_act")
    short = {key: value for key, value in FAMILY[family].items() if key not in left_out} | {"num_attention_heads": 32}
    shape = {key: value for key, value in short.items() if key not in ("model_type", "architectures")} | {"hidden_size": 256}
    whole = CONFIG_MAPPING[family](**shape, pad_token_id=0).to_dict()
    assert len(whole) > len(short) + 10
    read = LMConfig.from_hf(whole | {"architectures": short["architectures"]}, WHERE)
    assert LMConfig.from_hf(short | {"hidden_size": 256}, WHERE) == read


@pytest.mark.parametrize("case", sorted(path.parent.name for path in GOLDEN.glob("*/config.json")))
def test_what_is_written_means_the_same_to_transformers(case: str) -> None:
    config = LMConfig.from_hf(read_json(GOLDEN / case / "config.json"), case)
    written = config.to_hf()
    read = CONFIG_MAPPING[config.family](**written, pad_token_id=0).to_dict() | {"architectures": written["architectures"]}
    assert LMConfig.from_hf(read, WHERE) == config


def test_a_longrope_model_is_for_short_texts_or_for_long_ones() -> None:
    factors = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    entries = FAMILY["phi3"] | {"rope_scaling": factors, "original_max_position_embeddings": 64}

    def read(max_model_len: int | None) -> tuple[int, bool, float]:
        config = LMConfig.from_hf(entries, WHERE, max_model_len)
        assert LMConfig.from_hf(config.to_hf(), WHERE, max_model_len) == config
        return config.max_positions, config.rope.long, float(rope_frequencies(config.rope, config.head_dim)[0])

    assert read(None) == (64, False, 1.0)
    assert read(32) == (32, False, 1.0)
    assert read(64) == (64, False, 1.0)
    assert read(65) == (65, True, 0.5)
    longest = entries["max_position_embeddings"]
    assert read(longest) == (longest, True, 0.5)
    for wrong in (0, longest + 1):
        with pytest.raises(ValueError, match=f"max_model_len {wrong} is not from 1 to the model's context, {longest}"):
            read(wrong)
    with pytest.raises(ValueError, match="'long_factor' has 3 numbers for 4 pairs of channels"):
        LMConfig.from_hf(entries | {"rope_scaling": factors | {"long_factor": [2.0] * 3}}, WHERE)


def test_a_shorter_context_may_be_asked_for() -> None:
    assert LMConfig.from_hf(FAMILY["qwen3"], WHERE, 16) == replace(LMConfig.from_hf(FAMILY["qwen3"], WHERE), max_positions=16)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"sliding_window": 16, "layer_types": ["full_attention"]}, "'layer_types' has 1 entries of ['full_attention']; 2"),
        (
            {"sliding_window": 16, "layer_types": ["full_attention", "chunked"]},
            "'layer_types' has 2 entries of ['chunked', 'full",
        ),
        ({"num_local_experts": 8}, "field 'num_local_experts' asks for a mixture of experts"),
        ({"vision_config": {"depth": 2}}, "field 'vision_config' asks for a vision tower"),
        ({"linear_num_key_heads": 4}, "field 'linear_num_key_heads' asks for linear attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_window' is missing or 'use_sliding_window' off"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "'layer_types' has 2 entries of"),
        ({"model_type": "gpt2"}, "'model_type' 'gpt2'"),
        ({"model_type": None}, "'model_type' None"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "Qwen2ForSequenceClassification"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'"),
        ({"hidden_size": None}, "field 'hidden_size' is missing"),
        ({"rms_norm_eps": None}, "field 'rms_norm_eps' is missing"),
        ({"rms_norm_eps": "small"}, "field 'rms_norm_eps' is 'small'; a positive number was expected"),
        ({"rms_norm_eps": float("nan")}, "field 'rms_norm_eps' is nan"),
        ({"rope_theta": "10000"}, "field 'rope_theta' is '10000'"),
        ({"rope_theta": -1.0}, "field 'rope_theta' is -1.0"),
        ({"rope_scaling": [1]}, "'rope_scaling' is a JSON list; an object or null was expected"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "field 'factor' is True"),
        ({"num_hidden_layers": "2"}, "field 'num_hidden_layers' is '2'"),
        ({"num_attention_heads": 0}, "field 'num_attention_heads' is 0"),
        ({"num_key_value_heads": 3}, "not a multiple of 'num_key_value_heads' 3"),
        ({"head_dim": 7}, "'head_dim' 7 is odd"),
        ({"quantization_config": {"quant_method": "fp8"}}, "'quantization_config' is set"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type 'ntk'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "field 'long_factor' is None; a list of numbers"),
        ({"rope_scaling": {"type": "linear"}}, "'rope_scaling' of type 'linear' lacks 'factor'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "lacks 'low_freq_factor'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differs between layers"),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "'partial_rotary_factor' is 1.5; at most 1"),
    ],
)
def test_what_the_transformer_does_not_compute_is_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{WHERE}: ") as caught:
        LMConfig.from_hf(QWEN2 | entries, WHERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "an object was expected")])
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json .*{message}"):
        read_json(tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")
