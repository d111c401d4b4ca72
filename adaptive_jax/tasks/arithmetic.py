r"""The embedded task: chains of two or three additions and subtractions, and the worked solutions `tiny` was trained on.

It is an environment for the learner, the way CartPole is one, and no measure of any model's ability. Its solutions carry
what makes decoding matter in real text: two styles of different length, answers without any working, slips of arithmetic,
and re-checking ("wait, ...") that is likely enough after a subtraction to trap greedy decoding in an endless loop.

    5+7=12
    12-6=6
    wait, 12-6=6
    6+9=15
    \boxed{15}
"""

import functools
import hashlib
import itertools
import re

import numpy as np

from adaptive_jax.tasks.problem import Problem

SPLITS = {"test": 0.2, "validation": 0.1, "train": 0.7}
FIRST_OPERANDS = range(1, 20)
OPERANDS = range(1, 10)

# Probabilities of the worked solutions; chosen so that a schedule (hot where the text forks, greedy where digits are
# computed) has room above every constant temperature. Measured by `python -m experiments.math_token`.
RECHECK_AFTER_SUBTRACTION = 0.74
RECHECK_AFTER_ADDITION = 0.45
SLIP = 0.13
SLIPS = (-2, -1, 1, 2)
WORDED_STYLE = 0.35
UNWORKED_WITH_COT = 0.05
WORKED_WITHOUT_COT = 0.1
DIRECT_SLIP = 0.2

WORDINGS = 4


def problems(split: str = "test", limit: int | None = None) -> list[Problem]:
    """The problems of a split, in an order that never changes; chains of two and of three steps alternate while both last.

    A chain belongs to one split by a hash of its text, whatever its wording, so splits share no problem.

    Args:
        split: "train", "validation" or "test".
        limit: how many; all of them without.

    Raises:
        ValueError: an unknown split, or a limit below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the arithmetic task has {', '.join(sorted(SPLITS))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: give at least 1, or leave it out for the whole split")
    short, long = _chains()[split]
    paired = [chain for pair in zip(short, long, strict=False) for chain in pair]
    longer = max(short, long, key=len)
    chains = paired + list(longer[min(len(short), len(long)) :])
    return [_problem(chain) for chain in chains[:limit]]


@functools.cache
def _chains() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Chains such as "5+7-6" per split, (two-step, three-step), each in hash order. No running total is negative."""
    splits: dict[str, list[list[str]]] = {name: [] for name in SPLITS}
    for steps in (2, 3):
        ranked: dict[str, list[tuple[bytes, str]]] = {name: [] for name in SPLITS}
        for first in FIRST_OPERANDS:
            for rest in itertools.product(*[[(sign, n) for sign in "+-" for n in OPERANDS]] * steps):
                total, valid = first, True
                for sign, n in rest:
                    total += n if sign == "+" else -n
                    valid &= total >= 0
                if valid:
                    chain = f"{first}" + "".join(f"{sign}{n}" for sign, n in rest)
                    digest = hashlib.sha256(chain.encode()).digest()
                    place = int.from_bytes(digest[:4], "big") / 2**32
                    for name, share in SPLITS.items():
                        if place < share:
                            ranked[name].append((digest[4:], chain))
                            break
                        place -= share
        for name in SPLITS:
            splits[name].append([chain for _, chain in sorted(ranked[name])])
    return {name: (tuple(short), tuple(long)) for name, (short, long) in splits.items()}


def _problem(chain: str) -> Problem:
    wording = hashlib.sha256(f"wording {chain}".encode()).digest()[0] % WORDINGS
    first, steps = parse(chain)
    answer = first + sum(steps)
    totals = list(itertools.accumulate(steps, initial=first))
    lines = [f"{total}{step:+d}={total + step}" for total, step in zip(totals, steps, strict=False)]
    solution = "\n".join([*lines, rf"\boxed{{{answer}}}"])
    return Problem(
        id=f"arithmetic/{chain}",
        question=question(chain, wording),
        answer=str(answer),
        kind="integer",
        metadata={"solution": solution},
    )


def parse(chain: str) -> tuple[int, list[int]]:
    """First operand and signed operands of a chain: "5+7-6" -> (5, [7, -6])."""
    first, *rest = re.findall(r"[+-]?\d+", chain)
    return int(first), [int(step) for step in rest]


def question(chain: str, wording: int) -> str:
    """The text of a problem, in one of `WORDINGS` wordings."""
    first, steps = parse(chain)
    if wording == 0:
        return f"Compute {chain}."
    if wording == 1:
        return f"What is {chain}?"
    if wording == 2:
        moves = "".join(f", add {step}" if step > 0 else f", subtract {-step}" for step in steps)
        return f"Start with {first}{moves}."
    moves = "".join(f", gets {step}" if step > 0 else f", gives {-step}" for step in steps)
    return f"Ann has {first}{moves}. How many?"


def worked_solution(chain: str, cot: bool, rng: np.random.Generator) -> str:
    r"""One solution as the training text of `tiny` has it: style, length, re-checks and slips drawn from `rng`."""
    first, steps = parse(chain)
    if rng.random() < (UNWORKED_WITH_COT if cot else 1 - WORKED_WITHOUT_COT):
        return rf"\boxed{{{_slip(first + sum(steps), DIRECT_SLIP, rng)}}}"
    worded = rng.random() < WORDED_STYLE
    lines, total = [], first
    for step in steps:
        recheck = RECHECK_AFTER_SUBTRACTION if step < 0 else RECHECK_AFTER_ADDITION
        prefix = ""
        while True:
            result = _slip(total + step, SLIP, rng)
            sign = (" minus " if step < 0 else " plus ") if worded else ("-" if step < 0 else "+")
            lines.append(f"{prefix}{total}{sign}{abs(step)}{' is ' if worded else '='}{result}\n")
            if rng.random() >= recheck:
                break
            prefix = "wait, "
        total = result
    return "".join(lines) + rf"\boxed{{{total}}}"


def _slip(value: int, probability: float, rng: np.random.Generator) -> int:
    if rng.random() >= probability:
        return value
    return max(value + int(rng.choice(SLIPS)), 0)
