"""What `tiny` is pretrained on holds no problem that anything is evaluated with."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from adaptive_jax.tasks import arithmetic
from adaptive_jax.tasks.problem import Problem, shared
from experiments import pretrain_tiny

ROWS = 600


class Enough(Exception):
    """The training loop has asked for its rows."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """The tokenizer and the first packed rows of what `pretrain_tiny.main` trains on, taken from its own call."""
    caught = []

    def catch(tokenizer: Any, *arguments: Any) -> Iterator[dict[str, np.ndarray]]:
        caught.append((tokenizer, list(itertools.islice(packed_rows(tokenizer, *arguments), ROWS))))
        raise Enough

    packed_rows = pretrain_tiny.packed_rows
    config = pretrain_tiny.Config(out=tmp_path_factory.mktemp("tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_tiny, "packed_rows", catch)
        with pytest.raises(Enough):
            pretrain_tiny.main(config)
    return caught[0]


def pieces(tokenizer: Any, row: dict[str, np.ndarray]) -> list[str]:
    """The prompt and the solutions of a packed row, as text."""
    segment = row["segment"]
    return [tokenizer.decode(row["tokens"][segment == number]) for number in range(segment.max() + 1)]


def question_of(prompt: str) -> str:
    return re.fullmatch(r"<\|user\|>(.*)\n.*<\|assistant\|>", prompt)[1]


def test_no_evaluation_problem_is_pretrained_on(stream: tuple[Any, list[dict[str, np.ndarray]]]) -> None:
    asked = [Problem("", question_of(pieces(stream[0], row)[0]), "") for row in stream[1]]
    assert len({problem.question for problem in asked}) == ROWS
    assert shared(asked, arithmetic.problems("train")) == asked
    assert shared(asked, arithmetic.problems("test")) == []
    assert shared(asked, arithmetic.problems("validation")) == []


def test_rows_are_prompts_with_solutions_of_their_own(stream: tuple[Any, list[dict[str, np.ndarray]]]) -> None:
    tokenizer, rows = stream
    for row in rows[:100]:
        prompt, *solutions = pieces(tokenizer, row)
        assert solutions
        first = re.search(r"\d+", question_of(prompt))[0]
        for number, solution in enumerate(solutions, start=1):
            # a solution begins with a copy of the prompt's last token, at the same position
            assert re.fullmatch(r"<\|assistant\|>[^<]*\\boxed\{\d+\}<\|end\|>", solution)
            if "\n" in solution:
                assert solution.startswith(f"<|assistant|>{first}")
            own = row["segment"] == number
            length = (row["segment"] == 0).sum()
            np.testing.assert_array_equal(row["positions"][own], np.arange(length - 1, length - 1 + own.sum()))
            # every token but the copy is predicted, from the token before it
            np.testing.assert_array_equal(row["weight"][own], [1] * (own.sum() - 1) + [0])
        assert row["weight"][row["segment"] <= 0].sum() == 0
