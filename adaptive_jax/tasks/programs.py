"""The embedded programming problems: small, self-written, five or six tests each, with solutions that pass them.

They exist so that the code experiment runs without any download. `programs.jsonl` holds one problem a line, in the
fields of `loading` plus "split" and "solution"; train and test hold related but different problems.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from adaptive_jax.tasks.problem import Case, Problem


def problems(split: str = "test", limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of the split "train" or "test", roughly from easy to less easy.

    Raises:
      ValueError: an unknown split.
    """
    splits = sorted({row["split"] for row in _rows()})
    if split not in splits:
        raise ValueError(f"programs has no split {split!r}, only {' and '.join(splits)}")
    rows = [row for row in _rows() if row["split"] == split][:limit]
    return [
        Problem(
            row["id"],
            row["question"],
            kind="code",
            tests=tuple(Case(**case) for case in row["tests"]),
            metadata={"solution": row["solution"]},
        )
        for row in rows
    ]


@cache
def _rows() -> list[dict[str, Any]]:
    lines = Path(__file__).with_name("programs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
