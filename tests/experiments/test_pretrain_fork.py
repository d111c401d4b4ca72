"""What `fork` is pretrained on holds no problem that anything is evaluated with, and only solutions are predicted."""

import itertools
import re

import numpy as np
import pytest

from adaptive_jax.tasks import fork_programs, forks
from adaptive_jax.tasks.problem import Problem, shared
from experiments import pretrain_fork
from experiments.pretraining import packed_examples

ROWS = 200


def test_no_evaluation_problem_is_pretrained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `main` hands to the training loop, taken from its own call."""
    caught: list[dict[str, np.ndarray]] = []
    tokenizer = pretrain_fork.build_tokenizer()
    monkeypatch.setattr(
        pretrain_fork, "pretrain", lambda _config, _tokenizer, rows: caught.extend(itertools.islice(rows, ROWS))
    )
    pretrain_fork.main(pretrain_fork.Config())
    texts = [
        tokenizer.decode(row["tokens"][row["segment"] == number])
        for row in caught
        for number in range(1, row["segment"].max() + 1)
    ]
    asked = [re.fullmatch(r"<\|user\|>(.*)\n.*<\|assistant\|>(.*)<\|end\|>", text, re.DOTALL) for text in texts]
    questions = [Problem("", found[1]) for found in asked]
    assert len(questions) > 5 * ROWS
    for task in (forks, fork_programs):
        assert shared(questions, task.problems("train"))
        assert not shared(questions, task.problems("test"))
        assert not shared(questions, task.problems("validation"))


def test_a_row_holds_whole_examples_and_predicts_their_solutions() -> None:
    examples = [([1, 2, 3], [4, 5]), ([6, 7], [8]), ([1, 9], [5, 5, 5, 5]), ([2, 2], [3])]
    rows = list(itertools.islice(packed_examples(itertools.cycle(examples), 9), 2))
    np.testing.assert_array_equal(rows[0]["tokens"], [1, 2, 3, 4, 5, 6, 7, 8, 0])
    np.testing.assert_array_equal(rows[0]["segment"], [1, 1, 1, 1, 1, 2, 2, 2, -1])
    np.testing.assert_array_equal(rows[0]["positions"], [0, 1, 2, 3, 4, 0, 1, 2, 0])
    # position t predicts token t + 1
    np.testing.assert_array_equal(rows[0]["weight"], [0, 0, 1, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rows[1]["tokens"], [1, 9, 5, 5, 5, 5, 2, 2, 3])


def test_phrases_are_tokens_and_any_text_comes_back() -> None:
    tokenizer = pretrain_fork.build_tokenizer()
    for phrase in pretrain_fork.PHRASES:
        assert len(tokenizer.encode(phrase, add_special_tokens=False)) == 1
    for text in ("First,\n5\n+3=8\n\\boxed{8}", "Grüße 🙂 -4 +3=2\n", "```python\nn=int(input())\nn+=3\nprint(n)\n```"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
