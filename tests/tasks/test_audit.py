import json
import sys
from pathlib import Path

import pytest

from adaptive_jax.__main__ import main
from adaptive_jax.tasks import audit as module
from adaptive_jax.tasks.audit import CHANGED, REFERENCE, REWRITINGS, audit, one_number_changed
from adaptive_jax.tasks.problem import Problem


@pytest.mark.parametrize(
    ("kind", "answer", "rewritten"),
    [
        ("sum reordered", "x^2-3x+2", "2-3x+x^{2}"),
        ("sum reordered", r"-3\sqrt{5}-5", r"-5-3\sqrt{5}"),
        ("sum reordered", "(1,2)", "(1,2)"),
        ("sum reordered", "-7", "-7"),
        ("factors reordered", "2(x-1)(x+3)", "2(x+3)(x-1)"),
        ("factors reordered", "(1,2)", "(1,2)"),
        (r"\dfrac", r"\frac{1}{2}", r"\dfrac{1}{2}"),
        ("spacing", "x+2=1,234", "x + 2 = 1,234"),
        ("spacing", "(1,-2)", "(1, -2)"),
        ("plain text", r"\frac{\sqrt{2+\sqrt{3}}}{2}", "((sqrt(2+sqrt(3)))/(2))"),
        ("plain text", r"\sqrt[3]{2}", r"\sqrt[3]{2}"),
    ],
)
def test_a_rewriting_says_the_same(kind: str, answer: str, rewritten: str) -> None:
    assert REWRITINGS[kind](answer) == rewritten


def test_each_number_is_changed_in_turn() -> None:
    assert one_number_changed(r"\frac{19}{2}x+1,250.5") == [
        r"\frac{10}{2}x+1,250.5",
        r"\frac{19}{3}x+1,250.5",
        r"\frac{19}{2}x+1,250.6",
    ]


def test_what_the_grader_gets_wrong_is_counted_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grader that accepts whatever holds a 2: the expected counts are by hand."""
    monkeypatch.setattr(module, "grade_many", lambda _, texts: ["correct" if "2" in text else "unparseable" for text in texts])
    tallies = audit([Problem("a", "Q", "2+x"), Problem("b", "Q", r"\frac{1}{7}"), Problem("c", "Q", "", kind="code")])
    counts = {name: (tally.graded, tally.accepted) for name, tally in tallies.items()}
    assert counts[REFERENCE] == (2, 1)
    assert counts[CHANGED] == (3, 1)  # 3+x, 2/7, 1/8
    assert counts[r"\dfrac"] == (1, 0)
    assert tallies[REFERENCE].exceptions == [("b", r"\frac{1}{7}", r"\frac{1}{7}", "unparseable")]
    assert tallies[CHANGED].exceptions == [("b", r"\frac{1}{7}", r"\frac{2}{7}", "correct")]


def test_anyone_can_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["9c+6", r"\frac \pi4", r"2(x-1)(x+3)", "x^0"]  # x^0 is 1, but x^1 is not
    rows = [json.dumps({"question": f"Q{n}", "answer": answer}) for n, answer in enumerate(answers)]
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(rows))
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "audit-grader", str(file)])
    assert main() == 0
    out = capsys.readouterr().out
    assert "4 problems audited, 0 left out" in out
    assert "0 exceptions" in out
    file.write_text(json.dumps({"question": "Q", "answer": "1^2"}))  # 1^3 is the same number: for a person to judge
    assert main() == 1
    assert "'1^3' for '1^2' is called correct" in capsys.readouterr().out


def test_programs_alone_cannot_be_audited(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "audit-grader", "programs", "--limit", "3"])
    assert main() == 2
    assert "no answer in mathematics" in capsys.readouterr().err
