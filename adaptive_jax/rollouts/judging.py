"""Texts and grades of completions, made in a thread while others are still decoded."""

from collections.abc import Callable
from concurrent.futures import Executor, Future

import numpy as np
from jaxtyping import Int, Int32

from adaptive_jax.tasks.problem import Grade

BATCH = 256  # completions that are judged at a time: a grader's processes are asked seldom

Numbers = Int[np.ndarray, " ended"]
Lengths = Int32[np.ndarray, " ended"]
Tokens = Int32[np.ndarray, "ended steps"]
Judge = Callable[[Numbers, Tokens, Lengths], tuple[list[str], list[Grade]]]


class Judging:
    """Judges the completions of one rollout.

    Args:
        judge: from numbers, tokens and lengths of completions that have ended to their texts and their grades; no grades, if
            nobody asked for them.
        count: of all completions.
        thread: in which it is called, batch after batch.
    """

    def __init__(self, judge: Judge, count: int, thread: Executor):
        self._judge, self._thread = judge, thread
        self._texts: list[str] = [""] * count
        self._grades: list[Grade | None] = [None] * count
        self._ended: list[tuple[Numbers, Tokens, Lengths]] = []  # not enough for a batch yet
        self._pending: list[Future[None]] = []

    def add(self, numbers: Numbers, tokens: Tokens, lengths: Lengths) -> None:
        """Completions have ended; for `rollout`'s `on_ended`. Raises what judging earlier ones raised."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._ended.append((numbers, tokens, lengths))
        if sum(len(own) for own, _, _ in self._ended) >= BATCH:
            self.submit()

    def submit(self) -> None:
        """Have those judged, too, that are not enough for a batch."""
        if self._ended:
            parts, self._ended = self._ended, []
            self._pending.append(self._thread.submit(self._keep, *map(np.concatenate, zip(*parts, strict=True))))

    def _keep(self, numbers: Numbers, tokens: Tokens, lengths: Lengths) -> None:
        texts, grades = self._judge(numbers, tokens, lengths)
        for place, number in enumerate(numbers.tolist()):
            self._texts[number] = texts[place]
            if grades:
                self._grades[number] = grades[place]

    def result(self) -> tuple[list[str], list[Grade]]:
        """Texts and grades of all, once they have ended and were submitted. Raises what judging them raised."""
        for pending in self._pending:
            pending.result()
        return self._texts, [grade for grade in self._grades if grade is not None]
