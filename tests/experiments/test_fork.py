"""The experiments on the embedded model `fork`: mixed ways of asking, programs, and what the hand-written schedule sees."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation
from adaptive_jax.policies.schedule import OpeningSchedule
from adaptive_jax.runs.adapters import MAIN
from adaptive_jax.tasks import forks
from adaptive_jax.tasks.code import judge_many
from adaptive_jax.tasks.grading import grade_many
from experiments import code_token, math_token
from experiments.launching import exit_on_usage_error

SMALL = {"limit": 6, "train_limit": 8, "updates": 1, "prompts": 2, "completions": 2, "rows": 32, "budget": (24,)}


@pytest.fixture
def _one_adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One adapter is trained, not four: each is compiled anew."""
    monkeypatch.setattr(math_token, "ADAPTERS", {MAIN: math_token.ADAPTERS[MAIN]})
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        yield


def greedy_verdicts(model: str, data: str, cot: bool) -> list[str]:
    lm = aj.load_lm(model)
    problems = aj.load_problems(data, split="test", limit=6)
    done = aj.generate(lm, [aj.prompt(lm, problem, cot=cot) for problem in problems], aj.static(0.0), max_new_tokens=24)
    jobs = [(problem, own[0].text) for problem, own in zip(problems, done, strict=True)]
    if data == "fork_programs":
        return judge_many(jobs, allow_unsandboxed=True)
    return grade_many(problems, [text for _, text in jobs])


@pytest.mark.usefixtures("_one_adapter")
def test_mixed_questions_have_a_row_of_direct_ones(tmp_path: Path) -> None:
    config = math_token.MathToken(**SMALL, model="fork", dataset="forks", cot="mix", run_dir=tmp_path / "run")
    rows = json.loads((math_token.main(config) / "results.json").read_text())["rows"]
    found = {row["cot"]: row for row in rows if row["method"] == "greedy" and row["budget"] == 24}
    assert list(found) == ["mix", "none"]
    assert found["mix"]["n"] == found["none"]["n"] == 6
    assert found["none"]["value"] == np.mean([verdict == "correct" for verdict in greedy_verdicts("fork", "forks", False)])
    methods = {cot: [row["method"] for row in rows if row["cot"] == cot] for cot in found}
    assert methods["mix"] == methods["none"]
    assert "hand-written schedule" in methods["mix"]


@pytest.mark.usefixtures("_one_adapter")
def test_programs_are_judged_at_token_level(tmp_path: Path) -> None:
    run = code_token.main(code_token.CodeToken(**SMALL, allow_unsandboxed=True, run_dir=tmp_path / "run"))
    results = json.loads((run / "results.json").read_text())
    assert [results[key] for key in ("experiment", "model", "dataset")] == ["code_token", "fork", "fork_programs"]
    assert "sandbox" in json.loads((run / "environment.json").read_text())
    (greedy,) = [row for row in results["rows"] if row["method"] == "greedy" and row["budget"] == 24]
    right = [verdict == "correct" for verdict in greedy_verdicts("fork", "fork_programs", False)]
    assert greedy["value"] == np.mean(right)


def test_programs_are_refused_where_answers_are_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit), exit_on_usage_error():
        code_token.main(code_token.CodeToken(model="fork", dataset="forks", run_dir=tmp_path / "run"))
    assert "--dataset forks holds problems that ask for an answer" in capsys.readouterr().err


def test_a_guess_is_no_better_than_it_says_and_working_is_right() -> None:
    """What the card claims of the model: greedy takes the guess, and a worked answer drawn greedily is right."""
    lm = aj.load_lm("fork")
    problems = [p for p in forks.problems("test", 400) if forks.kind_of(p.id.partition("/")[2]) == "guess"]
    prompts = [aj.prompt(lm, problem) for problem in problems]
    guessed = [own[0].text for own in aj.generate(lm, prompts, aj.static(0.0), max_new_tokens=20)]
    named = [rf"\boxed{{{forks.choices(problem.id.partition('/')[2])[0]}}}" for problem in problems]
    assert np.mean([text == first for text, first in zip(guessed, named, strict=True)]) > 0.9
    opened = [prompt + forks.OPENERS[0] + "\n" for prompt in prompts]
    worked = [own[0].text for own in aj.generate(lm, opened, aj.static(0.0), max_new_tokens=20)]
    assert np.mean([verdict == "correct" for verdict in grade_many(problems, worked)]) > 0.9


def test_the_opening_schedule_is_hot_at_first_where_the_budget_allows_it() -> None:
    policy = OpeningSchedule(SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.25)]), opening=2, least=20)
    budget = jnp.array([20, 20, 20, 19])
    remaining = jnp.array([20, 19, 18, 19])
    nothing = jnp.zeros(4)
    observation = Observation(jnp.zeros((4, 3)), remaining, budget, jnp.zeros(4, jnp.int32), nothing, nothing)
    actions, features = policy.step(observation, jnp.zeros(4, jnp.int32), nothing)
    np.testing.assert_array_equal(actions, [1, 1, 0, 0])
    assert features.shape == (4, 0)
