"""Grading: was the answer right? The one source of reward."""

from collections.abc import Sequence

import numpy as np

from adaptive_jax.tasks import ifeval
from adaptive_jax.tasks.maths import final_answer, integer_verdict, quick_verdict
from adaptive_jax.tasks.maths_screen import echoes
from adaptive_jax.tasks.problem import Problem, Verdict


def grade(problem: Problem, text: str) -> Verdict:
    """The verdict on one completion; see `grade_many`, which is faster for more than one."""
    return grade_many([problem], [text])[0]


def grade_many(problems: Sequence[Problem], texts: Sequence[str], *, allow_unsandboxed: bool = False) -> list[Verdict]:
    r"""The verdict on each completion, in order, whatever the number of workers.

    "correct"      the last `\boxed{}` is the answer; or the program passes every test;
                   or the text follows every instruction
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
    open_maths: dict[tuple[str, str], list[int]] = {}
    programs: list[int] = []
    for index, (problem, text) in enumerate(zip(problems, texts, strict=True)):
        if problem.kind == "code":
            programs.append(index)
            continue
        if problem.kind == "instructions":
            verdicts[index] = ifeval.verdict(problem, text)
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
            open_maths.setdefault((problem.answer, answer), []).append(index)
    if open_maths:
        from adaptive_jax.tasks.maths_pool import shared_pool

        for verdict, indices in zip(shared_pool().verdicts(list(open_maths)), open_maths.values(), strict=True):
            for index in indices:
                verdicts[index] = verdict
    if programs:
        from adaptive_jax.tasks.code import judge_many

        judged = judge_many([(problems[i], texts[i]) for i in programs], allow_unsandboxed=allow_unsandboxed)
        for index, verdict in zip(programs, judged, strict=True):
            verdicts[index] = verdict
    return verdicts


def rewards(verdicts: Sequence[Verdict]) -> tuple[np.ndarray, np.ndarray]:
    """What the learner sees.

    Returns:
      float32 [N] rewards, 1 for "correct" and 0 for all others; and bool [N], False for "error": such a completion must
      be masked out of the gradient, not taken for a failure.
    """
    correct = np.array([verdict == "correct" for verdict in verdicts], np.float32)
    return correct, np.array([verdict != "error" for verdict in verdicts], bool)
