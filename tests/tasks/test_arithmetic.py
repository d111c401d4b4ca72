"""The embedded task: what its problems say, what their answers are, and that what is held out is held out."""

import itertools
import re

import numpy as np
import pytest

from adaptive_jax.tasks import arithmetic
from adaptive_jax.tasks.grading import grade
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem, shared

SPLITS = ("train", "validation", "test")
WORDS = {"+": "+", "-": "-", "add": "+", "subtract": "-", "gets": "+", "gives": "-", "plus": "+", "minus": "-"}


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    return {split: arithmetic.problems(split) for split in SPLITS}


def chain_of(problem: Problem) -> str:
    return problem.id.removeprefix("arithmetic/")


def test_splits_share_no_problem(problems: dict[str, list[Problem]]) -> None:
    for left, right in itertools.combinations(SPLITS, 2):
        assert not {p.id for p in problems[left]} & {p.id for p in problems[right]}
        assert shared(problems[left], problems[right]) == []


def test_splits_together_are_every_chain(problems: dict[str, list[Problem]]) -> None:
    """All chains of 2 and 3 steps whose running total never falls below 0, counted by dynamic programming."""
    totals = dict.fromkeys(range(1, 20), 1)
    counts = []
    for _ in range(3):
        after: dict[int, int] = {}
        for total, ways in totals.items():
            for step in (*range(-9, 0), *range(1, 10)):
                if total + step >= 0:
                    after[total + step] = after.get(total + step, 0) + ways
        totals = after
        counts.append(sum(totals.values()))
    chains = {chain_of(problem) for split in SPLITS for problem in problems[split]}
    assert len(chains) == sum(map(len, problems.values())) == counts[1] + counts[2]
    shares = [len(problems[split]) / len(chains) for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.005)


def test_answers_are_what_python_says(problems: dict[str, list[Problem]]) -> None:
    for problem in itertools.chain(*problems.values()):
        assert re.fullmatch(r"\d+([+-]\d){2,3}", chain_of(problem))
        assert problem.answer == str(eval(chain_of(problem)))
        assert problem.kind == "integer"
    assert grade(problem, rf"It is \boxed{{{problem.answer}}}") == "correct"
    assert grade(problem, rf"It is \boxed{{{int(problem.answer) + 1}}}") == "wrong"


def test_every_wording_tells_the_whole_chain_in_order(problems: dict[str, list[Problem]]) -> None:
    chains = [chain_of(problem) for problem in problems["validation"][:500]]
    for chain, wording in itertools.product(chains, range(arithmetic.WORDINGS)):
        text = arithmetic.question(chain, wording)
        first, *steps = re.findall(r"[+-]|add|subtract|gets|gives|\d+", text)
        told = first + "".join(WORDS.get(part, part) for part in steps)
        assert told == chain, text
    wordings = {re.sub(r"\d+|[+-]|add|subtract|gets|gives", "", problem.question)[:8] for problem in problems["test"]}
    assert len(wordings) == arithmetic.WORDINGS


def test_a_limit_takes_the_first(problems: dict[str, list[Problem]]) -> None:
    for split, limit in itertools.product(SPLITS, (1, 2, 7, 100)):
        assert arithmetic.problems(split, limit) == problems[split][:limit]
    assert load_problems("arithmetic", split="test", limit=5) == problems["test"][:5]
    assert arithmetic.problems(limit=10**6) == problems["test"]


def test_lengths_alternate(problems: dict[str, list[Problem]]) -> None:
    for split in SPLITS:
        steps = [len(re.findall(r"[+-]", chain_of(problem))) for problem in problems[split]]
        assert steps[:1000] == [2, 3] * 500


@pytest.mark.parametrize(
    ("split", "limit", "message"), [("dev", None, "'dev'.*test, train, validation"), ("test", 0, "limit 0: give at least 1")]
)
def test_bad_input_is_named(split: str, limit: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arithmetic.problems(split, limit)


# Worked solutions

LINE = re.compile(r"(wait, )?(\d+)( plus |\+| minus |-)(\d+)(?: is |=)(-?\d+)")


def near(count: int, trials: int, probability: float) -> bool:
    """Whether a count is within four standard deviations of what a probability lets expect."""
    return abs(count - trials * probability) <= 4 * np.sqrt(trials * probability * (1 - probability))


def solutions(chain: str, cot: bool, count: int) -> list[str]:
    rng = np.random.default_rng(11)
    return [arithmetic.worked_solution(chain, cot, rng) for _ in range(count)]


def test_worked_solutions_check_again_and_slip_as_often_as_stated() -> None:
    """The chain's totals stay far from 0, where slips would be cut off."""
    chain, count = "19-4+8", 4000
    texts = solutions(chain, True, count)
    worked = [text for text in texts if not text.startswith(r"\boxed")]
    assert near(count - len(worked), count, arithmetic.UNWORKED_WITH_COT)
    worded = [text for text in worked if " is " in text]
    assert near(len(worded), len(worked), arithmetic.WORDED_STYLE)
    assert not any("=" in text for text in worded)
    lines = {"-": 0, "+": 0}
    rechecks = {"-": 0, "+": 0}
    slips: list[int] = []
    for text in worked:
        *steps, box = text.split("\n")
        said = []
        for step in steps:
            again, left, sign, right, result = LINE.fullmatch(step).groups()
            said.append((again, int(left), WORDS[sign.strip()], int(right), int(result)))
        firsts = [line for line in said if not line[0]]
        assert [(sign, operand) for _, _, sign, operand, _ in firsts] == [("-", 4), ("+", 8)]
        assert said[0][1] == 19
        for before, (again, left, sign, right, _) in itertools.pairwise(said):
            # a check says the same again; the next step goes on from the result that was said last
            assert (left, sign, right) == before[1:4] if again else left == before[4]
        assert box == rf"\boxed{{{said[-1][4]}}}"
        for again, left, sign, right, result in said:
            lines[sign] += 1
            rechecks[sign] += bool(again)
            slips.append(result - (left + right if sign == "+" else left - right))
    assert near(rechecks["-"], lines["-"], arithmetic.RECHECK_AFTER_SUBTRACTION)
    assert near(rechecks["+"], lines["+"], arithmetic.RECHECK_AFTER_ADDITION)
    wrong = [slip for slip in slips if slip]
    assert near(len(wrong), len(slips), arithmetic.SLIP)
    assert all(near(wrong.count(slip), len(wrong), 1 / 4) for slip in arithmetic.SLIPS)
    assert set(wrong) == set(arithmetic.SLIPS)


def test_direct_answers_slip_as_often_as_stated() -> None:
    chain, count = "19-4+8", 4000
    texts = solutions(chain, False, count)
    direct = [text for text in texts if "\n" not in text]
    assert near(count - len(direct), count, arithmetic.WORKED_WITHOUT_COT)
    wrong = [text for text in direct if text != r"\boxed{23}"]
    assert near(len(wrong), len(direct), arithmetic.DIRECT_SLIP)
    assert set(wrong) == {rf"\boxed{{{23 + slip}}}" for slip in arithmetic.SLIPS}


def test_no_result_is_negative() -> None:
    assert not any(re.search(r"(?:=|is |\{)-", text) for text in solutions("1-1+1", True, 500))
