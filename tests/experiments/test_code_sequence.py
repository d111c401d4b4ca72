"""The experiment on programs from end to end: the embedded model decodes, and scripted programs take the place of its words."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adaptive_jax.runs.directory import read_metrics
from adaptive_jax.tasks.sandbox import choose_tier, tiers
from experiments.code_sequence import CodeSequence, main
from experiments.launching import exit_on_usage_error

ROOT = Path(__file__).parents[2]
VERDICTS = {
    "```python\nprint(2 * int(input()))\n```": "correct",
    "```python\nprint(4)\n```": "wrong",  # passes the first test only
    "```python\nraise SystemExit(1)\n```": "wrong",
    "": "unparseable",
}
# every text that is judged goes to the file of its part, one JSON line each
SCRIPT = """
import json, sys
from pathlib import Path
from adaptive_jax import environment
programs, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
judge = environment.rewarded
def decode(tokenizer, tokens, lengths):
    return [programs[int(row[:length].sum()) % len(programs)] for row, length in zip(tokens, lengths)]
def rewarded(problems, texts, **options):
    with (folder / "judged.jsonl").open("a") as file:
        file.writelines(json.dumps([problem.id, text]) + "\\n" for problem, text in zip(problems, texts))
    return judge(problems, texts, **options)
environment.decode, environment.rewarded = decode, rewarded
from experiments.code_sequence import CodeSequence, main
main(CodeSequence(
    model="tiny", dataset=str(folder / "contests.jsonl"), limit=2, train_limit=4, budget=(3,), updates=5, rows=16, seed=1,
    held_out_completions=8, examples=1, allow_unsandboxed=True, actions=folder / "set.json", run_dir=folder / "run",
))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on eight problems in the fields of CodeContests, and what it judged."""
    folder = tmp_path_factory.mktemp("code")
    rows = [
        {
            "name": f"double {n}",
            "description": f"Read n and print n + n. This is problem {n}.",
            "public_tests": {"input": ["2\n"], "output": ["4\n"]},
            "private_tests": {"input": [f"{n}\n"], "output": [f"{2 * n}\n"]},
            "solutions": {"language": [3], "solution": ["print(2 * int(input()))"]},
        }
        for n in range(3, 11)
    ]
    (folder / "contests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "set.json").write_text(json.dumps({"actions": [{"temperature": 0.5}, {"temperature": 1.25}]}))
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(VERDICTS)), str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def content(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "run" / name).read_text())


def judged(folder: Path) -> list[tuple[str, str]]:
    return [tuple(json.loads(line)) for line in (folder / "judged.jsonl").read_text().splitlines()]


def test_every_completion_is_judged_and_counted(folder: Path) -> None:
    """8 completions under 2 actions: of 2 problems to evaluate, 1 to watch, 4 to train on; number 5 is the example."""
    texts = judged(folder)
    assert Counter(name for name, _ in texts) == {f"double {n}": 16 for n in range(3, 11) if n != 5}
    evaluated = Counter(VERDICTS[text] for name, text in texts if name in ("double 3", "double 4"))
    assert set(evaluated) == {"correct", "wrong", "unparseable"}
    counts = content(folder, "results.json")["verdicts"]["all actions"]
    assert counts == {verdict: evaluated[verdict] for verdict in ("correct", "wrong", "unparseable", "timeout", "error")}
    lines = (folder / "run" / "samples.jsonl").read_text().splitlines()
    samples = Counter((sample["method"], sample["verdict"]) for sample in map(json.loads, lines))
    chosen = {f"{name}, B = {count}" for name in ("best static", "sequence adapter, budget") for count in (1, 8)}
    assert {method for method, _ in samples} == {"T 0.5", "T 1.25"} | chosen
    kept = Counter()
    for (method, verdict), count in samples.items():
        kept[verdict] += 0 if method in chosen else count
    assert kept == {verdict: count for verdict, count in counts.items() if count}  # of 16 for each action, all


def test_the_oracle_and_mixed_static_follow_from_the_verdicts(folder: Path) -> None:
    results = content(folder, "results.json")
    assert [results[key] for key in ("experiment", "model")] == ["code_sequence", "tiny"]
    rows = {(row["method"], row["metric"]): row for row in results["rows"]}
    solved = Counter(name for name, text in judged(folder) if VERDICTS[text] == "correct")
    # with all 8 completions counted, an action solves a problem or does not, and the oracle picks one that does
    assert rows["oracle", "pass@8"]["value"] == sum(solved[name] > 0 for name in ("double 3", "double 4")) / 2
    assert all(row["cot"] == "none" and row["budget"] == 3 and row["n"] == 2 for row in rows.values())
    assert {"best static", "mixed static", "LPO", "sequence adapter, budget"} <= {method for method, _ in rows}


def test_the_sandbox_is_recorded(folder: Path) -> None:
    environment = content(folder, "environment.json")
    assert environment["sandbox"] == choose_tier(allow_unsandboxed=True)
    assert environment["tiers"] == dict(tiers())
    assert "commit" in environment
    assert [line["unknown"] for line in read_metrics(folder / "run") if line.get("event") == "scored"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": "arithmetic"}, "--dataset arithmetic holds problems that ask for an answer"),
        ({"dataset": "programs", "limit": 4, "budget": (4096,)}, "do not fit the model's context of 1024"),
        ({"dataset": "programs", "completions": 4}, "--completions 4: give at least 8"),
    ],
)
def test_a_flag_that_cannot_be_is_named(
    flags: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_usage_error():
        main(CodeSequence(**{"model": "tiny", "train_limit": 8, "run_dir": tmp_path / "run"} | flags))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_a_sandbox_the_experiment_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adaptive_jax.tasks import sandbox

    monkeypatch.setattr(sandbox, "tiers", lambda: {"bubblewrap": "not installed", "landlock": "too old"})
    with pytest.raises(SystemExit) as ended, exit_on_usage_error():
        main(CodeSequence(model="tiny", train_limit=8, run_dir=tmp_path / "run"))
    assert ended.value.code == 2
    assert "--allow-unsandboxed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
