r"""Programs of the embedded model `fork`: read an integer, change it in three steps, print it; four kinds as in `forks`.

Like `forks` an environment for the learner, and no measure of any model's ability. A working program, as the model writes it:

    ```python
    n=int(input())
    n+=3
    n*=2
    n-=4
    print(n)
    ```

Its bugs are wrong constants, an expression on one line that forgets the brackets, and a line that is not turned into a number.
"""

import functools
import itertools
import re
from collections.abc import Callable

import numpy as np

from adaptive_jax.tasks.forks import (
    FIRM_SPREAD,
    GUESS_FIRST,
    HIDDEN_RIGHT,
    NOISY_REMARK,
    NOISY_RIGHT,
    REMARKS,
    SLIP,
    SPLITS,
    STEPS,
    Kind,
    kind_of,
    off,
    split_of,
)
from adaptive_jax.tasks.problem import Case, Problem

WORDINGS: dict[Kind, str] = {"guess": "Apply ", "firm": "Carry out ", "hidden": "Perform ", "noisy": "Do "}
OPERATIONS = tuple(f"{sign}{number}" for sign in "+-*" for number in range(2 if sign == "*" else 1, 10))
NAMES = "nabkmtxyz"
INPUTS = (3, 12)  # what is computed is linear in the number that is read: two numbers tell any two such programs apart


def problems(split: str = "test", limit: int | None = None) -> list[Problem]:
    """The problems of a split, in an order that never changes; see `forks.problems`.

    Args:
        split: "train" (12,335), "validation" (1,740) or "test" (3,501).
        limit: how many; all of them without.

    Raises:
        ValueError: an unknown split, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: give at least 1, or leave it out for the whole split")
    return [_problem(chain) for chain in _chains(split)[:limit]]


@functools.cache
def _chains(split: str) -> tuple[str, ...]:
    """Chains such as "+3, *2, -4" in hash order."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the task has {', '.join(sorted(SPLITS))}")
    chains = [", ".join(steps) for steps in itertools.product(OPERATIONS, repeat=STEPS)]
    placed = [(*split_of(chain), chain) for chain in chains]
    return tuple(chain for _, chain in sorted((rank, chain) for name, rank, chain in placed if name == split))


def _problem(chain: str) -> Problem:
    return Problem(
        id=f"fork_programs/{chain}",
        question=f"{WORDINGS[kind_of(chain)]}{chain} to an integer that you read, and print it.",
        kind="code",
        tests=tuple(Case(f"{number}\n", f"{applied(chain, number)}\n") for number in INPUTS),
        metadata={"solution": _program(_by_steps(chain, NAMES[0], _exactly)).removeprefix("```python\n").removesuffix("```")},
    )


def parse(chain: str) -> list[tuple[str, int]]:
    """Signs and constants: "+3, *2, -4" -> [("+", 3), ("*", 2), ("-", 4)]."""
    return [(sign, int(number)) for sign, number in re.findall(r"([-+*])(\d)", chain)]


def applied(chain: str, number: int) -> int:
    """What a right program prints."""
    for sign, constant in parse(chain):
        number = {"+": number + constant, "-": number - constant, "*": number * constant}[sign]
    return number


def solution(chain: str, rng: np.random.Generator) -> str:
    """One program as the training text of `fork` has it, whether asked step by step or not."""
    kind = kind_of(chain)
    if kind == "guess":
        if rng.random() < GUESS_FIRST:
            return _program(f"print(int(input()){chain.replace(', ', '')})\n")
        name = str(rng.choice(list(NAMES)))
        return _program(_by_steps(chain, name, lambda constant: off(constant) if rng.random() < SLIP else constant))
    if kind == "firm":
        if rng.random() < FIRM_SPREAD:
            return _program(_by_steps(chain, NAMES[0], _exactly))
        name = str(rng.choice(list(NAMES[1:])))
        return _program(_by_steps(chain, name, _exactly).replace("int(input())", "input()"))
    if kind == "noisy" and rng.random() < len(REMARKS) * NOISY_REMARK:
        return str(rng.choice(REMARKS))
    if rng.random() < (HIDDEN_RIGHT if kind == "hidden" else NOISY_RIGHT):
        return _program(_by_steps(chain, NAMES[0], _exactly))
    return _program("print(input())\n")


def _by_steps(chain: str, name: str, constant: Callable[[int], int]) -> str:
    lines = [f"{name}{sign}={constant(number)}\n" for sign, number in parse(chain)]
    return "".join([f"{name}=int(input())\n", *lines, f"print({name})\n"])


def _exactly(constant: int) -> int:
    return constant


def _program(text: str) -> str:
    return f"```python\n{text}```"
