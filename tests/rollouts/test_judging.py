"""Completions judged while others are drawn, and how many of them a shard has."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adaptive_jax.rollouts.config import default_shard_size
from adaptive_jax.rollouts.judging import BATCH, Judging
from adaptive_jax.tasks.problem import Grade


def test_completions_are_judged_in_batches_and_stand_in_their_order() -> None:
    """They end in any order, and with any width of tokens."""
    sizes: list[int] = []

    def judge(numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> tuple[list[str], list[Grade]]:
        sizes.append(len(numbers))
        values = [int(row[:length].sum()) for row, length in zip(tokens, lengths, strict=True)]
        return [f"text {value}" for value in values], [Grade("correct", value / 10_000) for value in values]

    order = np.random.default_rng(0).permutation(1000)
    with ThreadPoolExecutor(1) as thread:
        judging = Judging(judge, 1000, thread)
        for start in range(0, 1000, 3):
            numbers = order[start : start + 3]
            tokens = np.stack([numbers, np.full_like(numbers, 9)], axis=1).astype(np.int32)
            judging.add(numbers, tokens, np.ones(len(numbers), np.int32))
        judging.submit()
        texts, grades = judging.result()
    assert texts == [f"text {number}" for number in range(1000)]
    assert [grade.value for grade in grades] == [number / 10_000 for number in range(1000)]
    assert sum(sizes) == 1000
    assert min(sizes[:-1]) >= BATCH


def test_a_grader_that_gives_up_stops_the_rollout_soon() -> None:
    def judge(*ended: np.ndarray) -> tuple[list[str], list[Grade]]:
        raise RuntimeError("no reward is ever given")

    with ThreadPoolExecutor(1) as thread:
        judging = Judging(judge, 10 * BATCH, thread)
        ended = np.arange(BATCH), np.zeros((BATCH, 1), np.int32), np.ones(BATCH, np.int32)
        judging.add(*ended)
        thread.submit(int).result()  # what was in line before is over
        with pytest.raises(RuntimeError, match="no reward is ever given"):
            judging.add(*ended)


@pytest.mark.parametrize(
    ("rows", "budget", "size"), [(128, 256, 16384), (1024, 256, 65536), (128, 2048, 8192), (8, 32768, 4096)]
)
def test_shards_are_long_beside_the_rows_but_not_too_large_for_memory(rows: int, budget: int, size: int) -> None:
    assert default_shard_size(rows, budget) == size
