"""Judging programs: a completion's Python program must pass every test of its problem.

The program runs in a sandbox, one process for each test, and only ever sees the test's input; what it prints is compared
here, by the rule of CodeContests (arXiv 2203.07814; `ValuesMatch` in its `execution/tester_sandboxer.cc`).
"""

import logging
import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from adaptive_jax.tasks.maths import without_thoughts
from adaptive_jax.tasks.problem import Problem, Verdict, time_limit
from adaptive_jax.tasks.sandbox import Limits, Tier, choose_tier, run

log = logging.getLogger(__name__)

TIME_FACTOR = 5  # our choice: a problem's own time limit is made for compiled programs, and is so much longer for Python
TOLERANCE = 1e-5
LONGEST_PROGRAM = 1 << 18  # characters
MOST_KNOWN = 1 << 15  # verdicts that are kept

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
# matched in linear time, whatever a program prints
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_NUMBER = re.compile(rb"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,4})?")

_known: dict[tuple[Problem, str | None, Tier, Limits], Verdict] = {}


def judge_many(
    jobs: Sequence[tuple[Problem, str]],
    *,
    allow_unsandboxed: bool = False,
    workers: int | None = None,
    limits: Limits | None = None,
) -> list[Verdict]:
    """The verdict on each (problem, completion), in order; equal programs for the same problem are run once.

    That holds for later calls, too, as long as `MOST_KNOWN` others have not come between: a policy that learns writes most of
    its programs again and again. What ran out of time is tried anew.

    Args:
      jobs: completions of problems of kind "code".
      allow_unsandboxed: see `sandbox.choose_tier`.
      workers: programs that run at once; one for each processor if None. No verdict depends on it: what counts is a
        program's own CPU time.
      limits: for each test. A problem's own time limit, where it has one, counts instead of `limits.seconds`, `TIME_FACTOR`
        times as long and in whole seconds, rounded up.

    Raises:
      SandboxUnavailable: no sandbox holds and `allow_unsandboxed` is not set.
    """
    tier = choose_tier(allow_unsandboxed)
    keys = [(problem, extract_program(text)) for problem, text in jobs]
    full = {key: (*key, tier, _own_limits(key[0], limits or Limits())) for key in keys}
    known = {key: verdict for key, named in full.items() if (verdict := _known.get(named)) is not None}
    distinct = [key for key in full if key not in known]
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        verdicts = executor.map(lambda key: _judge(*full[key]), distinct)
        found = dict(zip(distinct, verdicts, strict=True))
    finally:
        executor.shutdown(cancel_futures=True)
    if len(_known) + len(found) > MOST_KNOWN:
        _known.clear()
    _known.update({full[key]: verdict for key, verdict in found.items() if verdict in ("correct", "wrong")})
    known |= found
    return [known[key] for key in keys]


def extract_program(text: str) -> str | None:
    """The program in a completion: its last fenced Python block, else its last fenced block, else the whole text.

    What stands in a think block does not count; a fence the budget cut off ends with the text. None if nothing is left,
    or too much.
    """
    text = without_thoughts(text)
    blocks = _FENCE.findall(text)
    python = [code for tag, code in blocks if tag.lower() in ("python", "python3", "py")]
    program = python[-1] if python else blocks[-1][1] if blocks else text
    return program if program.strip() and len(program) <= LONGEST_PROGRAM else None


def _judge(problem: Problem, program: str | None, tier: Tier, limits: Limits) -> Verdict:
    if program is None:
        return "unparseable"
    for case in problem.tests:
        outcome = run(program, case.input.encode("utf-8", "surrogatepass"), tier, limits)
        if outcome.status == "fault":
            log.error("the %s sandbox did not start: %s", tier, outcome.detail)
            return "error"
        if outcome.status == "timeout":
            return "timeout"
        if outcome.status == "failed" or not same_output(outcome.output, case.output):
            return "wrong"
    return "correct"


def _own_limits(problem: Problem, limits: Limits) -> Limits:
    own = time_limit(problem.metadata)
    return limits if own is None else replace(limits, seconds=math.ceil(TIME_FACTOR * own))


def same_output(written: bytes, expected: str) -> bool:
    """Whether two outputs have the same tokens: white space and ASCII letter case aside, numbers within 1e-5.

    Integers must be equal: a double, with which CodeContests compares them, cannot tell large ones apart.
    """
    right = expected.encode("utf-8", "surrogatepass").lower().split()
    left = written.lower().split(None, len(right))  # what is behind the last token that counts stays one piece
    return len(left) == len(right) and all(map(_same_token, left, right))


def _same_token(left: bytes, right: bytes) -> bool:
    if left == right:
        return True
    if _INTEGER.fullmatch(left) and _INTEGER.fullmatch(right):
        return _integer(left) == _integer(right)
    if _NUMBER.fullmatch(left) and _NUMBER.fullmatch(right):
        return abs(float(left) - float(right)) < TOLERANCE
    return False


def _integer(token: bytes) -> tuple[bool, bytes]:
    """Whether it is below zero, and its digits: an integer's value without converting what may be millions of digits."""
    digits = token.lstrip(b"+-").lstrip(b"0")
    return token[:1] == b"-" and digits != b"", digits
