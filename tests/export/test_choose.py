"""What a server is told is what the loop would have done."""

import json

import pytest

import adaptive_jax as aj
from tests.export.cases import TINY_WIDTH, case
from tests.policies.adapters import with_random_head


def test_each_prompt_gets_the_setting_that_its_completions_would_hold(lm: aj.LM) -> None:
    settings = [aj.SamplingParams(0.0), aj.SamplingParams(0.7, top_p=0.9), aj.SamplingParams(1.25, top_k=8, min_p=0.05)]
    plain = [
        {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.0},
        {"temperature": 1.25, "top_p": 1.0, "top_k": 8, "min_p": 0.05},
    ]
    untrained = aj.sequence_adapter(TINY_WIDTH, aj.SamplingParams.stack(settings), width=16)
    adapter = with_random_head(untrained, 3.0, 2)
    prompts = [aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=12)]
    seen = set()
    for samples in (1, 8):
        done = aj.generate(lm, prompts, adapter, n=samples, max_new_tokens=1)
        actions = [int(group[0].actions[0]) for group in done]
        assert json.loads(json.dumps(aj.choose(lm, prompts, adapter, samples=samples))) == [plain[a] for a in actions]
        seen |= {*actions}
    assert len(seen) > 1
    assert aj.choose(lm, [], adapter) == []


def test_what_cannot_be_chosen_is_told(lm: aj.LM) -> None:
    adapter = case("both")
    with pytest.raises(TypeError, match=r"prompts is a string: give a list"):
        aj.choose(lm, "5+7", adapter)
    with pytest.raises(TypeError, match="TokenAdapter, which chooses anew for each token: give a sequence adapter"):
        aj.choose(lm, ["5+7"], case("centred"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples is 0: give at least 1"):
        aj.choose(lm, ["5+7"], adapter, samples=0)
    with pytest.raises(ValueError, match="belongs to a model of hidden size 6, and this one has 96"):
        aj.choose(lm, ["5+7"], case("both", 6))
    with pytest.raises(ValueError, match="is empty"):
        aj.choose(lm, [""], adapter)
