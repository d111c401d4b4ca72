"""Stop texts, against the same completions without any: what is left is the text before the first of them."""

import dataclasses

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding.stop import StopTexts
from tests.policies.adapters import random_adapter

OPTIONS = {"n": 8, "max_new_tokens": 24, "rows": 8, "seed": 3}


@pytest.fixture(scope="module")
def lm() -> aj.LM:
    return aj.load_lm("tiny")


@pytest.fixture(scope="module")
def whole(lm: aj.LM) -> list[aj.Completion]:
    return aj.generate(lm, prompts(lm), policy=aj.static(1.0), **OPTIONS)[0]


def prompts(lm: aj.LM) -> list[str]:
    return [aj.prompt(lm, problem) for problem in aj.load_problems("arithmetic", limit=1)]


@pytest.mark.parametrize("stop", [["\n"], ["=1"], ["1\n1", "ait"], ["absent"]])  # one token, two tokens, several, none
def test_a_completion_ends_with_the_token_that_completes_a_stop_text(
    lm: aj.LM, whole: list[aj.Completion], stop: list[str]
) -> None:
    found = aj.generate(lm, prompts(lm), policy=aj.static(1.0), stop=stop, **OPTIONS)[0]
    shorter = 0
    for completion, full in zip(found, whole, strict=True):
        places = [place for text in stop if (place := full.text.find(text)) >= 0]
        assert completion.text == full.text[: min(places, default=None)]
        np.testing.assert_array_equal(completion.tokens, full.tokens[: len(completion.tokens)])
        assert len(completion.actions) == len(completion.tokens)
        if places:
            texts = [lm.tokenizer.decode(completion.tokens[:end], skip_special_tokens=True) for end in (-1, None)]
            assert [any(text in written for text in stop) for written in texts] == [False, True]
            assert completion.finish_reason == "stop"
            shorter += len(completion.tokens) < len(full.tokens)
        else:
            assert len(completion.tokens) == len(full.tokens)
    assert shorter > 0 or stop == ["absent"]


def test_only_decisions_before_the_end_are_kept(lm: aj.LM) -> None:
    policy = random_adapter(lm.config.hidden_size)
    asked = [aj.Prompt("p", lm.tokenizer.encode(prompts(lm)[0]), 24)]
    run = {"key": jax.random.key(0), "stop_ids": lm.stop_ids, "completions": 8, "rows": 8}
    full = aj.rollout(lm.decoder, policy, asked, **run)
    ends = StopTexts(lm, ["=1"])
    cut = ends.truncated(full)
    assert (cut.lengths < full.lengths).any()
    completion, step = np.nonzero(full.decisions)
    kept = step < cut.lengths[completion]
    np.testing.assert_array_equal(cut.features, full.features[kept])
    assert cut.decisions.sum() == kept.sum() > 0
    for field in dataclasses.fields(cut):
        before, after = getattr(full, field.name), getattr(cut, field.name)
        if field.name in ("tokens", "actions", "entropy"):
            assert after.dtype == before.dtype
            assert all(not row[n:].any() for row, n in zip(after, cut.lengths, strict=True))


@pytest.mark.parametrize(("stop", "fault"), [("\n", TypeError), (["a", ""], ValueError)])
def test_what_is_no_list_of_texts_is_refused(lm: aj.LM, stop: list[str], fault: type[Exception]) -> None:
    with pytest.raises(fault, match="stop"):
        StopTexts(lm, stop)
