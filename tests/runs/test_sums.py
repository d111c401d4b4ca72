"""The sums of a run's files hold at every moment, even where the process dies."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptive_jax.runs.sums import Sums, check_files, read_sums

LOG = "metrics.jsonl"
CHANGES = 20  # two texts and their two moves, and eight times the sums with a move each


class Killed(BaseException):
    """Stands for the end of the process."""


def work(run: Path) -> None:
    """A file is made and replaced, and the log of an earlier process begun anew."""
    sums = Sums(run, LOG)
    for text in ("first", "second"):
        (run / "partial").write_text(text)
        sums.replace("results.json", run / "partial")
    sums.begin([])
    sums.stage("training")
    with (run / LOG).open("wb", buffering=0) as log:
        for line in (b"one\n", b"two\n"):
            log.write(line)
            sums.grown(line)
            sums.save()
        log.write(b"three")


@pytest.mark.parametrize("late", [False, True])
def test_dying_at_any_change_leaves_files_that_the_sums_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Before or after each file that is written or moved: nothing is damaged. `work` goes on from what was left."""
    left = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def change(*operands: Any) -> None:
            nonlocal left
            left -= 1
            if late or left:
                function(*operands)
            if left == 0:
                raise Killed

        return change

    (tmp_path / LOG).write_bytes(b"of a run without sums\n")
    with monkeypatch.context() as patch:
        for where, name in ((os, "replace"), (Path, "write_text")):
            patch.setattr(where, name, dying(getattr(where, name)))
        for number in range(1, CHANGES + 1):
            left = number
            with pytest.raises(Killed):
                work(tmp_path)
            assert [problem for _, _, problem in check_files(tmp_path, LOG) if problem] == [], number
        work(tmp_path)
    assert read_sums(tmp_path)[1] == {"training"}
    assert [*check_files(tmp_path, LOG)] == [("results.json", 0, None), (LOG, 5, None)]
    (tmp_path / LOG).write_bytes(b"one\nTwo\nthree")
    (tmp_path / "results.json").write_text("first")
    assert [name for name, _, problem in check_files(tmp_path, LOG) if problem] == ["results.json", LOG]
