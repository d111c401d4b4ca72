"""Section 3 of the design, on the embedded model: what other programs may rely on."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaptive_jax as aj

# 8 rows, the ring's size and the static policy are those of other tests on `tiny`: one compiled loop serves them all
OPTIONS = {"max_new_tokens": 24, "rows": 8}
WARM = aj.static(0.9)


@pytest.fixture(scope="module")
def lm() -> aj.LM:
    return aj.load_lm("tiny")


@pytest.fixture(scope="module")
def prompts(lm: aj.LM) -> list[str]:
    return [aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=4)]


@pytest.fixture(scope="module")
def done(lm: aj.LM, prompts: list[str]) -> list[list[aj.Completion]]:
    return aj.generate(lm, prompts, policy=WARM, n=2, seed=3, **OPTIONS)


def tokens(completions: list[list[aj.Completion]]) -> list[list[list[int]]]:
    return [[completion.tokens.tolist() for completion in group] for group in completions]


def test_everything_that_is_promised_is_there() -> None:
    promised = "load_lm SamplingParams sampling generate static load_adapter load_problems prompt grade"
    assert set(promised.split()) <= set(aj.__all__)
    assert all(hasattr(aj, name) for name in aj.__all__)


def test_lm_gives_logits_and_hidden_states(lm: aj.LM) -> None:
    assert isinstance(lm.tokenizer.encode("5+7"), list)
    width, vocabulary = lm.config.hidden_size, lm.config.vocab_size
    text = lm.tokenizer.encode("Compute 5+7-6.", add_special_tokens=False)[:6]
    tokens = np.array([[*text, 0, 0], [0, 0, *text]], np.int32)
    mask = np.array([[True] * 6 + [False] * 2, [False] * 2 + [True] * 6])
    logits, hidden = lm(tokens, mask)
    assert (logits.shape, logits.dtype) == ((2, 8, vocabulary), jnp.float32)
    assert (hidden.shape, hidden.dtype) == ((2, 8, width), jnp.float32)
    np.testing.assert_allclose(logits[0, :6], logits[1, 2:], atol=1e-4)  # padding left or right is the same text
    np.testing.assert_allclose(hidden[0, :6], hidden[1, 2:], atol=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        lm(tokens, mask[:, :4])


def test_sampling_draws_from_its_probabilities() -> None:
    logits = jnp.log(jnp.float32([[0.5, 0.3, 0.2]] * 4))
    params = aj.SamplingParams(temperature=np.array([0, 1, 1, 0.5], np.float32), top_k=np.array([0, 0, 2, 0]), top_p=1.0)
    probabilities = aj.sampling.probabilities(logits, params)
    assert probabilities.dtype == jnp.float32
    squares = np.array([25, 9, 4]) / 38
    np.testing.assert_allclose(probabilities, [[1, 0, 0], [0.5, 0.3, 0.2], [0.625, 0.375, 0], squares], rtol=1e-5)
    drawn = aj.sampling.sample(jax.random.split(jax.random.key(0), 4), logits, params)
    assert (drawn.shape, drawn.dtype) == ((4,), jnp.int32)
    assert drawn[0] == 0
    assert drawn[2] < 2


def test_completions_have_what_they_promise(lm: aj.LM, done: list[list[aj.Completion]]) -> None:
    assert [len(group) for group in done] == [2] * 4
    reasons = set()
    for completion in (completion for group in done for completion in group):
        length = len(completion.tokens)
        assert completion.tokens.dtype == completion.actions.dtype == np.int32
        assert completion.actions.tolist() == [0] * length
        stopped = completion.tokens[-1] in lm.stop_ids
        assert not set(completion.tokens[:-1].tolist()) & set(lm.stop_ids)
        assert completion.finish_reason == ("stop" if stopped else "budget")
        assert stopped or length == 24
        assert completion.text == lm.tokenizer.decode(completion.tokens, skip_special_tokens=True)
        assert "<|" not in completion.text
        reasons.add(completion.finish_reason)
    assert "stop" in reasons


def test_draws_depend_on_seed_prompt_and_number_only(lm: aj.LM, prompts: list[str], done: list[list[aj.Completion]]) -> None:
    assert tokens(aj.generate(lm, prompts, policy=WARM, n=2, seed=3, **OPTIONS)) == tokens(done)
    assert tokens(aj.generate(lm, prompts, policy=WARM, n=2, seed=4, **OPTIONS)) != tokens(done)
    turned = aj.generate(lm, [prompts[2], *prompts[3:], *prompts[:2]], policy=WARM, n=2, seed=3, **OPTIONS)
    assert tokens(turned) == [tokens(done)[i] for i in (2, 3, 0, 1)]
    more = aj.generate(lm, prompts[1:3], policy=WARM, n=4, seed=3, **OPTIONS)
    assert [group[:2] for group in tokens(more)] == tokens(done)[1:3]
    assert any(group[2:] != group[:2] for group in tokens(more))


def test_a_prompt_given_twice_goes_on_counting(lm: aj.LM, prompts: list[str]) -> None:
    twice = aj.generate(lm, [prompts[1], prompts[2], prompts[1], prompts[2]], policy=WARM, n=2, seed=3, **OPTIONS)
    once = aj.generate(lm, prompts[1:3], policy=WARM, n=4, seed=3, **OPTIONS)
    assert tokens(twice)[0] + tokens(twice)[2] == tokens(once)[0]
    assert tokens(twice)[1] + tokens(twice)[3] == tokens(once)[1]


def test_each_prompt_may_have_its_own_policy(lm: aj.LM, prompts: list[str], done: list[list[aj.Completion]]) -> None:
    greedy = aj.static(temperature=0.0)
    again = jax.tree.map(lambda x: x, WARM)  # another object, an equal policy
    found = aj.generate(lm, prompts, policy=[WARM, greedy, again, greedy], n=2, seed=3, **OPTIONS)
    cold = aj.generate(lm, prompts, policy=greedy, n=2, seed=3, **OPTIONS)
    assert tokens(found) == [tokens(part)[number] for number, part in enumerate((done, cold, done, cold))]
    with pytest.raises(ValueError, match="policy has 2 entries for 4 prompts"):
        aj.generate(lm, prompts, policy=[WARM, greedy], **OPTIONS)


def test_batches_are_the_parts_of_one_rollout(lm: aj.LM, prompts: list[str]) -> None:
    """Prompts come from a generator, one of them twice; of those of the third batch none is taken before it is due."""
    asked = [*prompts[:3], prompts[0], *prompts[2:]]
    taken: list[str] = []

    def coming() -> Iterator[str]:
        for prompt in asked:
            taken.append(prompt)
            yield prompt

    batches = aj.rollout_batches(lm, coming(), WARM, n=2, seed=3, batch_size=2, **OPTIONS)
    first, second = next(batches), next(batches)
    assert taken == asked[:4]
    joined = [*first, *second, *next(batches)]
    assert list(batches) == []
    assert tokens(joined) == tokens(aj.generate(lm, asked, policy=WARM, n=2, seed=3, **OPTIONS))
    with pytest.raises(ValueError, match="batch_size is 0"):
        aj.rollout_batches(lm, asked, WARM, batch_size=0)


def test_budgets(lm: aj.LM, prompts: list[str], done: list[list[aj.Completion]]) -> None:
    """A static policy does not see its budget, so a smaller one gives a prefix."""
    for budget, limits in ((2, [2] * 4), ([24, 3, 1, 24], [24, 3, 1, 24])):
        cut = aj.generate(lm, prompts, policy=WARM, n=2, budget=budget, seed=3, **OPTIONS)
        assert tokens(cut) == [[c[:limit] for c in group] for group, limit in zip(tokens(done), limits, strict=True)]
        for group, whole, limit in zip(cut, done, limits, strict=True):
            for completion, long in zip(group, whole, strict=True):
                assert completion.finish_reason == ("budget" if len(long.tokens) > limit else long.finish_reason)


@pytest.mark.parametrize(
    ("asked", "options", "error", "message"),
    [
        ("one string", {}, TypeError, r"prompts is a string.*\[prompt\]"),
        ([""], {}, ValueError, r"prompt 0 \(''\) is empty"),
        (["Compute 1+1."], {"budget": 0}, ValueError, r"budget 0 is outside 1\.\.24"),
        (["Compute 1+1."], {"budget": -3}, ValueError, r"budget -3 is outside 1\.\.24"),
        (["Compute 1+1."], {"budget": 25}, ValueError, r"budget 25 is outside 1\.\.24: raise max_new_tokens"),
        (["Compute 1+1."], {"budget": [3, 3]}, ValueError, "2 entries for 1 prompts"),
        (["Compute 1+1."], {"max_new_tokens": 0}, ValueError, "max_new_tokens is 0"),
        (["Compute 1+1."], {"n": 0}, ValueError, "n is 0"),
        (["1+" * 600], {}, ValueError, "context of 1024"),
        (["Compute 1+1."], {"max_new_tokens": 1024}, ValueError, "context of 1024"),
    ],
)
def test_bad_input_is_named(lm: aj.LM, asked: list[str], options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        aj.generate(lm, asked, policy=WARM, **(OPTIONS | options))


def test_no_prompt_no_completion(lm: aj.LM) -> None:
    assert aj.generate(lm, [], policy=WARM) == []


def test_problems_prompts_and_grades(lm: aj.LM) -> None:
    problems = aj.load_problems("arithmetic", split="test", limit=100)
    assert len(problems) == 100
    problem = problems[0]
    assert all(isinstance(text, str) and text for text in (problem.id, problem.question, problem.answer))
    step_by_step, direct = aj.prompt(lm, problem, cot=True), aj.prompt(lm, problem, cot=False)
    assert aj.prompt(lm, problem) == step_by_step != direct
    for text in (step_by_step, direct):
        assert problem.question in text
        assert text.startswith("<|user|>")
        assert text.endswith("<|assistant|>")
    assert aj.grade(problem, rf"so \boxed{{{problem.answer}}}") == "correct"
    assert aj.grade(problem, r"so \boxed{-1}") == "wrong"
    assert aj.grade(problem, "I do not know") == "wrong"
    assert aj.grade_many([problem] * 2, [rf"\boxed{{{problem.answer}}}", ""]) == ["correct", "wrong"]
