"""An exported adapter does under transformers what it does here. `uv run --group torch pytest -m torch` runs these tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding.chance import completion_keys, uniforms
from adaptive_jax.decoding.prompt import problem_digest
from adaptive_jax.lm.model import TINY
from tests.export.cases import KINDS, case, exported, padded, probabilities

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

STEPS, SAMPLES, SEED = 40, 2, 3
BUDGETS = [40, 9, 24, 1]


@pytest.fixture(scope="module")
def prompts(lm: aj.LM) -> list[str]:
    """Of different lengths."""
    return ["5", *(aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=3))]


def our_uniforms(prompts: Sequence[str]) -> np.ndarray:
    """The numbers that `aj.generate` draws by, float32 [prompts * SAMPLES, STEPS, 2]."""
    digests = np.repeat(np.stack([problem_digest(text) for text in prompts]), SAMPLES, axis=0)
    keys = completion_keys(jax.random.key(SEED), digests, np.tile(np.arange(SAMPLES, dtype=np.int32), len(prompts)))
    return np.stack([uniforms(keys, jax.numpy.full(len(keys), step, np.int32), 2) for step in range(STEPS)], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_actions_and_tokens(kind: str, lm: aj.LM, model: Any, prompts: list[str], torch: Any, tmp_path: Path) -> None:
    """Four prompts padded on the left, with budgets of their own; the uniform numbers are ours."""
    ids, mask = padded(lm, prompts)
    out = model.generate(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        custom_generate=exported(kind, lm, tmp_path),
        trust_remote_code=True,
        max_new_tokens=STEPS,
        num_return_sequences=SAMPLES,
        budget=BUDGETS,
        uniforms=our_uniforms(prompts),
        return_dict_in_generate=True,
    )
    adapter = case(kind)
    done = aj.generate(lm, prompts, adapter, n=SAMPLES, max_new_tokens=STEPS, budget=BUDGETS, seed=SEED)
    ours = [completion for group in done for completion in group]
    start = ids.shape[1]
    tokens, actions = out.sequences.numpy()[:, start:], out["actions"].numpy()
    for row, completion in enumerate(ours):
        length = len(completion.tokens)
        np.testing.assert_array_equal(tokens[row, :length], completion.tokens)
        np.testing.assert_array_equal(actions[row, :length], completion.actions)
        assert not tokens[row, length:].any()  # its stop token, which pads
    whole = out.sequences.numpy().astype(np.int32)
    real = np.concatenate([np.repeat(mask, SAMPLES, axis=0), np.ones_like(tokens)], axis=1).astype(bool)
    wanted = probabilities(lm, adapter, whole, real, start, np.repeat(BUDGETS, SAMPLES), SAMPLES)
    found = out["action_probabilities"].numpy()
    for row, completion in enumerate(ours):
        length = len(completion.tokens)
        np.testing.assert_allclose(found[row, :length], wanted[row, :length], atol=1e-4)
    assert wanted.max(axis=-1).mean() < 0.98  # the adapter is not sure of everything


@pytest.mark.parametrize("kind", ["centred", "entropy", "both"])
def test_streamer_stop_ids_and_bfloat16(
    kind: str, lm: aj.LM, model: Any, prompts: list[str], torch: Any, tmp_path: Path
) -> None:
    """As users know them: streamed tokens are those returned, a stop token ends a row, no attention mask is one of ones."""
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class Streamer(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Any) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    ids = torch.tensor(lm.tokenizer.encode(prompts[1], add_special_tokens=False))[None]
    options = {"custom_generate": exported(kind, lm, tmp_path), "trust_remote_code": True, "max_new_tokens": 12}
    torch.manual_seed(0)
    streamer = Streamer()
    whole = model.generate(ids, streamer=streamer, **options)[0]
    assert streamer.tokens == [*whole.tolist(), -1]
    torch.manual_seed(0)
    third = int(whole[len(ids[0]) + 2])
    cut = model.generate(ids, eos_token_id=third, **options)[0].tolist()
    assert cut == whole.tolist()[: len(cut)]
    assert cut.index(third, len(ids[0])) == len(cut) - 1
    half = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16)
    options |= {"eos_token_id": -1, "return_dict_in_generate": True}
    rounded, exact = half.generate(ids, **options), model.generate(ids, **options)
    assert rounded.sequences.shape == exact.sequences.shape == (1, len(ids[0]) + 12)
    first = [out["action_probabilities"][0, 0].numpy() for out in (rounded, exact)]  # after the same text
    np.testing.assert_allclose(*first, atol=0.02)


def test_what_cannot_be_had_is_told(lm: aj.LM, model: Any, torch: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    directory = exported("centred", lm, tmp_path)

    def told(match: str, model: Any = model, ids: Any = ids, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            model.generate(ids, custom_generate=directory, trust_remote_code=True, **{"max_new_tokens": 8, **options})

    told("num_beams is 3, .*: set num_beams=1", num_beams=3)
    told("num_beams is 2", generation_config=GenerationConfig(num_beams=2))
    told("cannot be used with assistant_model: leave it out", assistant_model=model)
    told("temperature=0.7 was given.*leave temperature out", temperature=0.7)
    told("the padding is on the right: set tokenizer.padding_side", attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    told("give max_new_tokens, such as 256", max_new_tokens=None)
    told("shape .3. for 2 prompts", budget=[1, 2, 3])
    told(r"outside 1..8: raise max_new_tokens", budget=[1, 9])
    told("budget is 2.5: give whole numbers", budget=2.5)
    told(r"shape .3.: give .prompts, length.", ids=torch.tensor([5, 6, 7]))
    other = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    other.generation_config.pad_token_id = 5  # another token than the one that stops
    told("begins with padding: give the tokenizer's attention_mask", other)
    other.generation_config.pad_token_id = 0
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight *= 1.1
    told("this model is not tiny, with which the adapter was trained: a hidden state differs by", other)
    assert other.generate(
        ids, custom_generate=directory, trust_remote_code=True, max_new_tokens=2, check_model=False
    ).shape == (2, 5)
    other.resize_token_embeddings(400, mean_resizing=False)
    told("vocabulary of 360 tokens, and this model has 400", other)
    other.config.hidden_size = 128
    told("tiny, of hidden size 96, and this model has 128: load tiny", other)


@pytest.mark.usefixtures("_modules")
def test_smollm2_acts_the_same(torch: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from adaptive_jax.lm.gguf import smollm2_file

    lm = aj.load_lm("smollm2")
    file = smollm2_file()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    texts = ["The sea is", "What is 17 plus 25? Answer:"]
    ids, mask = padded(lm, texts)
    for kind in KINDS:
        out = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            custom_generate=exported(kind, lm, tmp_path / kind),
            trust_remote_code=True,
            max_new_tokens=8,
            num_return_sequences=2,
            budget=[5, 8],
            eos_token_id=-1,
            return_dict_in_generate=True,
        )
        whole = out.sequences.numpy().astype(np.int32)
        real = np.concatenate([np.repeat(mask, 2, axis=0), np.ones((4, 8), int)], axis=1).astype(bool)
        budgets = np.array([5, 5, 8, 8])
        wanted = probabilities(lm, case(kind, lm.config.hidden_size), whole, real, ids.shape[1], budgets, 2)
        found = out["action_probabilities"].numpy()
        np.testing.assert_allclose(found[:2, :5], wanted[:2, :5], atol=1e-4)
        np.testing.assert_allclose(found[2:], wanted[2:], atol=1e-4)
