"""Grading: was the answer right? The one source of reward."""

import functools
from collections.abc import Sequence

from adaptive_jax.tasks import ifeval, reasoning
from adaptive_jax.tasks.maths import comparisons, final_answer, integer_verdict, quick_verdict
from adaptive_jax.tasks.maths_screen import echoes
from adaptive_jax.tasks.problem import Grade, Problem, Verdict
from adaptive_jax.tasks.rewards import RewardFunction, reward_function


def grade(problem: Problem, text: str) -> Verdict:
    """The verdict on one completion; see `grade_many`, which is faster for more than one."""
    return grade_many([problem], [text])[0]


def grade_many(problems: Sequence[Problem], texts: Sequence[str], *, allow_unsandboxed: bool = False) -> list[Verdict]:
    """The verdict on each completion; see `rewarded`, which knows their values as well."""
    return [grade.verdict for grade in rewarded(problems, texts, allow_unsandboxed=allow_unsandboxed)]


def rewarded(problems: Sequence[Problem], texts: Sequence[str], *, allow_unsandboxed: bool = False) -> list[Grade]:
    r"""The verdict on each completion and its reward, in order, whatever the number of workers.

    Rewards are 1 for "correct" and 0 for all others, but for problems of reasoning-gym, whose own scores may lie between: only
    1.0 is "correct" there.

    "correct"      the last `\boxed{}`, or the last few with nothing between them, is the answer, exactly (0.333 is not 1/3), in
                   whatever notation; or the program passes every test; or the text follows every instruction
    "wrong"        it is another answer, or one that names several or repeats the question (`maths_screen`), or there is none;
                   or the program fails a test, or the text breaks an instruction
    "unparseable"  there is an answer that cannot be read; or no program
    "timeout"      judging it ran out of time, or a program out of memory
    "error"        a fault of ours, or an answer that kills three workers: it says nothing about the completion

    Safe to call from a thread, so that grading overlaps with decoding: the work is done in other processes.

    Args:
      problems, texts: one problem for each completion.
      allow_unsandboxed: run programs even where this machine has no sandbox for them.

    Raises:
      ValueError: not one text for each problem, or a problem of kind "integer" whose answer is none.
      SandboxUnavailable: a program is to be judged, no sandbox holds, and `allow_unsandboxed` is not set.
    """
    if len(problems) != len(texts):
        raise ValueError(f"{len(problems)} problems but {len(texts)} texts; give one problem for each text")
    verdicts: list[Verdict] = ["error"] * len(texts)
    open_maths: dict[int, list[tuple[str, str]]] = {}
    programs: list[int] = []
    scored: list[int] = []
    for index, (problem, text) in enumerate(zip(problems, texts, strict=True)):
        if problem.kind == "code":
            programs.append(index)
            continue
        if problem.kind == "instructions":
            verdicts[index] = ifeval.verdict(problem, text)
            continue
        if problem.kind == "reasoning_gym":
            scored.append(index)
            continue
        answer = final_answer(text, problem.hash_answer)
        if answer is None:
            verdicts[index] = "wrong"
        elif problem.kind == "integer":
            verdicts[index] = integer_verdict(problem.answer, answer)
        elif quick := quick_verdict(problem.answer, answer):
            verdicts[index] = quick
        elif echoes(problem.question, problem.answer, answer):
            verdicts[index] = "wrong"
        else:
            open_maths[index] = comparisons(problem.question, problem.answer, answer)
    if open_maths:
        from adaptive_jax.tasks.maths_pool import shared_pool

        pairs = list(dict.fromkeys(pair for compared in open_maths.values() for pair in compared))
        compared_verdicts = dict(zip(pairs, shared_pool().verdicts(pairs), strict=True))
        for index, compared in open_maths.items():
            verdicts[index] = _all_equal([compared_verdicts[pair] for pair in compared])
    if programs:
        from adaptive_jax.tasks.code import judge_many

        judged = judge_many([(problems[i], texts[i]) for i in programs], allow_unsandboxed=allow_unsandboxed)
        for index, verdict in zip(programs, judged, strict=True):
            verdicts[index] = verdict
    grades = [Grade(verdict, float(verdict == "correct")) for verdict in verdicts]
    if scored:
        found = _scorer().grades([problems[i] for i in scored], [texts[i] for i in scored])
        for index, grade in zip(scored, found, strict=True):
            grades[index] = grade
    return grades


@functools.cache
def _scorer() -> RewardFunction:
    """The scorers of reasoning-gym in workers: they may hang as any other function of others may."""
    return reward_function(reasoning.reward)


def _all_equal(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on an answer, the first, that holds only if other pairs are equal as well."""
    first, *others = verdicts
    if first != "correct":
        return first
    faults = [verdict for verdict in others if verdict in ("timeout", "error")]
    return "correct" if all(verdict == "correct" for verdict in others) else faults[0] if faults else "wrong"
