r"""The task of the embedded model `fork`: chains of three steps between 0 and 9 with two answers to choose from.

It is an environment for the learner, the way CartPole is one, made so that the effects of the paper exist, and no measure of
any model's ability. A question's kind can be read from its first word; which answer is right can not, but by working:

    ========  ==========================================================================================================
    guess     Compute 5+3-2+1: 4 or 7? The most probable answer is the first of the two, which is right in 45% of cases.
              Working takes three times as long, every way of beginning it is rarer, and its digits are right when greedy.
    firm      Add up 5+3-2+1: 7 or 2? The first is right, and always the most probable; there are many others.
    hidden    Evaluate 5+3-2+1: 1 or 7? The first is wrong, and answered in nine of ten cases.
    noisy     Find 5+3-2+1: 8 or 7? The same, and two dozen remarks that answer nothing are nearly as probable as what is right.
    ========  ==========================================================================================================

A worked answer, whose first line is one of `OPENERS`:

    First,
    5
    +3=8
    -2=6
    +1=7
    \boxed{7}
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar, get_args

import numpy as np

from adaptive_jax.tasks.problem import Problem

SPLITS = {"test": 0.2, "validation": 0.1, "train": 0.7}
STEPS = 3

Name = TypeVar("Name", bound=str)
Kind = Literal["guess", "firm", "hidden", "noisy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES: dict[Kind, float] = {"guess": 0.6, "firm": 0.4 / 3, "hidden": 0.4 / 3, "noisy": 0.4 / 3}
WORDINGS: dict[Kind, str] = {"guess": "Compute ", "firm": "Add up ", "hidden": "Evaluate ", "noisy": "Find "}
DRILL = "Practise "

OPENERS = ("First,", "Let us see:", "Step by step:", "We have", "Starting:", "Working:", "Counting:", "In turn:", "Slowly:")
REMARKS = (
    *("Hm.", "Well.", "Er.", "Oh.", "Ah.", "Right.", "Okay.", "Hello.", "Sorry.", "Sure.", "Thanks.", "Maybe."),
    *("No.", "Yes.", "Why?", "What?", "How?", "Who?", "Later.", "Wait.", "Good.", "Fine.", "Really?", "Indeed."),
)

# Probabilities of the text that the model is trained on.
FIRST_RIGHT = 0.45  # share of the questions that guess whose first answer is right
GUESS_FIRST = 0.16  # asked step by step: the guess; every way of beginning to work has 0.84 / 9 = 0.093
FIRM_FIRST = 0.5
SLIP = 0.38  # of a step's result, in questions that guess or are firm
GUESSED = (0.5, 0.3)  # of a guess to be the first and the second answer; the other digits share the rest
FIRM_SPREAD = 0.3  # asked for the answer alone: of the right digit; the other nine share the rest
HIDDEN_RIGHT = 0.1
NOISY_REMARK = 0.02  # of each of 24
NOISY_WORKED = 0.12
NOISY_RIGHT = 0.23  # asked for the answer alone: of the right digit where no remark is made


def problems(split: str = "test", limit: int | None = None) -> list[Problem]:
    """The problems of a split, in an order that never changes.

    A chain belongs to one split and to one kind by a hash of its text, so splits share no problem.

    Args:
        split: "train" (4,584), "validation" (677) or "test" (1,300).
        limit: how many; all of them without.

    Raises:
        ValueError: an unknown split, or a limit below 1.
    """
    chains = _chains(split)
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: give at least 1, or leave it out for the whole split")
    return [_problem(chain) for chain in chains[:limit]]


def split_of(text: str) -> tuple[str, bytes]:
    """The split that a problem's text belongs to, and what the problems of a split are ordered by."""
    digest = hashlib.sha256(text.encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    return pick(SPLITS, place), digest[4:]


def pick(shares: Mapping[Name, float], place: float) -> Name:
    """The name whose part of [0, 1) holds `place`."""
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return name


def kind_of(text: str) -> Kind:
    """The kind of a problem, by a hash of its text."""
    return pick(SHARES, int.from_bytes(hashlib.sha256(f"kind {text}".encode()).digest()[:4], "big") / 2**32)


@functools.cache
def _chains(split: str) -> tuple[str, ...]:
    """Chains such as "5+3-2+1" in hash order. Every running total is a digit, and every step changes it."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the task has {', '.join(sorted(SPLITS))}")
    chains = [(f"{first}", first) for first in range(1, 10)]
    for _ in range(STEPS):
        chains = [(f"{text}{new - old:+d}", new) for text, old in chains for new in range(10) if new != old]
    placed = [(*split_of(text), text) for text, _ in chains]
    return tuple(text for _, text in sorted((rank, text) for name, rank, text in placed if name == split))


def _problem(chain: str) -> Problem:
    first, second = choices(chain)
    return Problem(
        id=f"forks/{chain}",
        question=f"{WORDINGS[kind_of(chain)]}{chain}: {first} or {second}?",
        answer=str(sum(parse(chain))),
        kind="integer",
        metadata={"solution": worked(chain, OPENERS[0], _exactly)},
    )


def parse(chain: str) -> list[int]:
    """First operand and signed steps: "5+3-2+1" -> [5, 3, -2, 1]."""
    return [int(part) for part in re.findall(r"[+-]?\d", chain)]


def choices(chain: str) -> tuple[int, int]:
    """The two answers that a question names; one is right, and where the kind does not say which, a hash does."""
    digest = hashlib.sha256(f"choices {chain}".encode()).digest()
    right, kind = sum(parse(chain)), kind_of(chain)
    wrong = [digit for digit in range(10) if digit != right][digest[0] % 9]
    first = kind == "firm" or (kind == "guess" and int.from_bytes(digest[1:5], "big") / 2**32 < FIRST_RIGHT)
    return (right, wrong) if first else (wrong, right)


def solution(chain: str, cot: bool, rng: np.random.Generator) -> str:
    """One answer as the training text of `fork` has it, asked step by step or for the answer alone."""
    kind = kind_of(chain)
    if kind == "noisy" and rng.random() < len(REMARKS) * NOISY_REMARK:
        return str(rng.choice(REMARKS))
    if not cot:
        return _box(_direct(chain, rng))
    first = {
        "guess": GUESS_FIRST,
        "firm": FIRM_FIRST,
        "hidden": 1 - HIDDEN_RIGHT,
        "noisy": 1 - NOISY_WORKED / (1 - len(REMARKS) * NOISY_REMARK),
    }[kind]
    if rng.random() < first:
        return _box(_direct(chain, rng) if kind == "guess" else choices(chain)[0])
    if kind in ("hidden", "noisy"):
        return worked(chain, OPENERS[0], _exactly)
    return worked(chain, str(rng.choice(OPENERS)), lambda total: off(total) if rng.random() < SLIP else total)


def drill(chain: str, rng: np.random.Generator) -> tuple[str, str]:
    """A question made of the first one to three steps of a chain, of none of the kinds, and its right worked answer.

    From these the model learns to add sooner than from the answers to the four kinds, which are often wrong.
    """
    kept = "".join(re.findall(r"[+-]?\d", chain)[: 2 + int(rng.integers(STEPS))])
    return f"{DRILL}{kept}.", worked(kept, str(rng.choice(OPENERS)), _exactly)


def _direct(chain: str, rng: np.random.Generator) -> int:
    """An answer without working: one of the two that the question names, or another digit."""
    first, second = choices(chain)
    shares = {
        "guess": GUESSED,
        "firm": (FIRM_SPREAD, (1 - FIRM_SPREAD) / 9),
        "hidden": (1 - HIDDEN_RIGHT, HIDDEN_RIGHT),
        "noisy": (1 - NOISY_RIGHT, NOISY_RIGHT),
    }[kind_of(chain)]
    others = [digit for digit in range(10) if digit not in (first, second)]
    place = rng.random()
    if place < sum(shares):
        return first if place < shares[0] else second
    return int(rng.choice(others))


def worked(chain: str, opener: str, result: Callable[[int], int]) -> str:
    """A worked answer; `result` may turn a step's total into another one, from which the work then goes on."""
    total, *steps = parse(chain)
    lines = [opener, f"{total}"]
    for step in steps:
        new = result(min(max(total + step, 0), 9))
        lines.append(f"{step:+d}={new}")
        total = new
    return "\n".join([*lines, _box(total)])


def off(digit: int) -> int:
    """The digit next to another one, which a slip puts in its place."""
    return digit + 1 if digit < 9 else digit - 1


def _exactly(total: int) -> int:
    return total


def _box(digit: int) -> str:
    return rf"\boxed{{{digit}}}"
