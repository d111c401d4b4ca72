"""`load_lm` on every kind of source but the large ones, its stop tokens, and calling the model."""

import dataclasses
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaptive_jax.decoding.generate import generate
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.lm.model import LM, TINY, load_lm
from adaptive_jax.policies.fixed import mixed

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A golden model with a tokenizer of single characters."""
    shutil.copytree(GOLDEN / "qwen3", tmp_path / "model")
    backend = Tokenizer(models.WordLevel({chr(33 + i): i for i in range(61)}, unk_token="!"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="#", chat_template=TEMPLATE)
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def write_json(file: Path, **entries: object) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def test_a_directory_gives_model_tokenizer_and_chat_template(directory: Path) -> None:
    lm = load_lm(str(directory))
    assert (lm.name, lm.config.family, lm.num_parameters) == ("model", "qwen3", sum_of_sizes(lm))
    assert lm.tokenizer("ABC")["input_ids"] == [32, 33, 34]
    chat = [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]
    assert lm.tokenizer.apply_chat_template(chat, tokenize=False) == "<A><B>"
    expected = np.load(GOLDEN / "qwen3" / "expected.npz")
    logits, hidden = lm(expected["tokens"], expected["mask"])
    assert (logits.dtype, logits.shape) == (jnp.float32, (4, 24, 61))
    assert (hidden.dtype, hidden.shape) == (jnp.float32, (4, 24, 32))
    head = lm.params["head"]["kernel"][...]
    np.testing.assert_allclose(np.asarray(hidden) @ np.asarray(head), np.asarray(logits), rtol=0, atol=1e-5)


def sum_of_sizes(lm: LM) -> int:
    c = lm.config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads) + 2 * c.head_dim
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    return 2 * c.vocab_size * c.hidden_size + c.num_layers * layer + c.hidden_size


def test_the_dtype_is_that_of_the_parameters_and_results_stay_float32(directory: Path) -> None:
    lm = load_lm(directory, dtype=jnp.bfloat16)
    assert lm.params["embedding"][...].dtype == jnp.bfloat16
    expected = np.load(GOLDEN / "qwen3" / "expected.npz")
    logits, hidden = lm(expected["tokens"], expected["mask"])
    assert logits.dtype == hidden.dtype == jnp.float32
    real = expected["mask"]
    assert np.abs(np.asarray(logits)[real] - expected["logits"][real]).mean() < 0.1


def test_calls_of_the_wrong_shape_are_refused(directory: Path) -> None:
    lm = load_lm(directory)
    with pytest.raises(ValueError, match=r"must have one shape \[B, T\]"):
        lm(np.zeros((2, 3)), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"must have one shape \[B, T\]"):
        lm(np.zeros(3), np.ones(3, bool))
    with pytest.raises(ValueError, match=r"8193 tokens exceed the context of model, 8192"):
        lm(np.zeros((1, 8193)), np.ones((1, 8193), bool))


def test_stop_tokens_come_from_the_first_file_that_gives_any(directory: Path) -> None:
    generation = directory / "generation_config.json"
    write_json(directory / "config.json", eos_token_id=7)
    write_json(generation, eos_token_id=[9, 4, 9])
    assert load_lm(directory).stop_ids == (4, 9)
    write_json(generation, eos_token_id=5)
    assert load_lm(directory).stop_ids == (5,)
    generation.unlink()
    assert load_lm(directory).stop_ids == (7,)
    write_json(directory / "config.json", eos_token_id=None)
    assert load_lm(directory).stop_ids == (2,)  # the tokenizer's "#"


@pytest.mark.parametrize("bad", [61, -1, [3, 99], "3", [True]])
def test_a_stop_token_outside_the_vocabulary_is_refused(directory: Path, bad: object) -> None:
    write_json(directory / "generation_config.json", eos_token_id=bad)
    with pytest.raises(ValueError, match=r"generation_config.json: 'eos_token_id' holds .* vocabulary of 61"):
        load_lm(directory)


def test_ids_beyond_the_vocabulary_are_refused_where_every_prompt_may_have_them(directory: Path) -> None:
    """The golden model has 61 ids. The tokenizer's other words are told of by the prompt that has one."""
    file = directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] |= {"~": 61, "|": 62}
    file.write_text(json.dumps(tokenizer))
    lm = load_lm(directory)
    with pytest.raises(ValueError, match=r"gives 'A~' the id 61 \('~'\), beyond the model's vocabulary of 61"):
        generate(lm, ["A", "A~"], mixed([SamplingParams(1.0)]), max_new_tokens=1)
    template = directory / "chat_template.jinja"
    template.write_text(TEMPLATE + "|")
    with pytest.raises(ValueError, match=r"model: the tokenizer gives .* the id 62 \('\|'\), beyond"):
        load_lm(directory)
    template.write_text("{{ messages[0].role.name.first }}")
    with pytest.raises(
        ValueError, match=r"model: the tokenizer's chat template fails \(UndefinedError: .* mend 'chat_template'"
    ):
        load_lm(directory)
    template.write_text(TEMPLATE)
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 63, "content": "<pad>"})
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"model: the tokenizer's added token '<pad>' has the id 63, beyond the model's"):
        load_lm(directory)


def test_a_model_without_stop_tokens_is_refused(directory: Path) -> None:
    write_json(directory / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ValueError, match=r"'eos_token_id' of generation_config.json is missing"):
        load_lm(directory)


def test_a_directory_without_a_readable_tokenizer_is_refused(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model: the tokenizer could not be read .* tokenizer.json"):
        load_lm(directory)
    with pytest.raises(FileNotFoundError, match=r"qwen3: none of tokenizer.json, tokenizer.model, vocab.json is there"):
        load_lm(GOLDEN / "qwen3")


@pytest.mark.parametrize("source", ["no-such-model", "a/b/c", "/no/such/directory", "two words/x"])
def test_an_unknown_source_lists_what_is_accepted(source: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no model '{source}'; accepted are 'tiny', 'fork', 'smollm2', a directory"):
        load_lm(source)


def test_a_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.gguf does not exist"):
        load_lm(tmp_path / "absent.gguf")


def test_a_hub_id_is_looked_up_and_its_absence_explained(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(name)
        assert {"*.json", "*.safetensors"} <= set(allow_patterns)
        assert any(fnmatch("consolidated.safetensors", pattern) for pattern in ignore_patterns)
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_lm("owner/model").name == "owner/model"
    assert asked == ["owner/model"]
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"no model 'owner/model': .* the hub gave none .*accepted are"):
        load_lm("owner/model")


def test_ids_that_pad_the_vocabulary_are_never_drawn(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "padded")
    weights = load_file(tmp_path / "padded" / "model.safetensors")
    name = "model.embed_tokens.weight"
    rows = np.repeat(8 * np.stack([weights[name][5], -weights[name][5]]), 12, axis=0)  # half of them would be drawn often
    save_file(weights | {name: np.concatenate([weights[name], rows])}, tmp_path / "padded" / "model.safetensors")
    write_json(tmp_path / "padded" / "config.json", vocab_size=len(weights[name]) + 24)
    prompts = ["Compute 5+7.", "Start with 3, add 4."]

    def drawn(lm: LM) -> list[list[int]]:
        done = generate(lm, prompts, mixed([SamplingParams(2.5), SamplingParams(2.5, top_k=370)]), n=8, max_new_tokens=24)
        return [completion.tokens.tolist() for completions in done for completion in completions]

    padded = load_lm(tmp_path / "padded")
    assert padded.config.vocab_size == 384
    assert drawn(padded) == drawn(load_lm("tiny"))
    assert max(max(tokens) for tokens in drawn(dataclasses.replace(padded, tokens=None))) >= 360  # what is tested here can fail
