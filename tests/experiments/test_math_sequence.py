"""The sequence-level experiment from the command line, small; and which questions belong to which row of its table."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.environment import Question, questions
from adaptive_jax.evaluation.evaluate import ActionScores, evaluate
from adaptive_jax.runs.directory import read_metrics
from experiments.launching import exit_on_usage_error
from experiments.math_sequence import MathSequence, Part, kind, main

ROOT = Path(__file__).parents[2]
SMALL = "--model tiny --limit 12 --train-limit 16 --updates 100 --rows 32 --budget 12 --seed 5 --cot mix"
METHODS = [
    "best static",
    "mixed static",
    "LPO",
    "sequence adapter, no budget",
    "sequence adapter, budget",
    "lookup table",
    "oracle",
]
COTS = ("all", "none", "mix")
ACTIONS = [{"temperature": 0.4, "top_p": 0.5}, {"temperature": 1.2}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an action set of its own and problems of another distribution."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "set.json").write_text(json.dumps({"actions": ACTIONS}))
    others = [{"id": f"other {n}", "question": f"Compute {n}+{n}.", "answer": str(2 * n)} for n in range(5)]
    (folder / "other.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in others))
    files = ["--actions", str(folder / "set.json"), "--eval-dataset", str(folder / "other.jsonl")]
    command = [sys.executable, "-m", "experiments.math_sequence", *SMALL.split(), *files, "--run-dir", str(folder / "run")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder / "run"


def rows_of(run: Path, name: str = "results.json") -> list[dict[str, Any]]:
    return json.loads((run / name).read_text())["rows"]


def test_a_run_leaves_what_is_promised(run: Path) -> None:
    files = {"config.json", "environment.json", "metrics.jsonl", "results.json", "results.md", "pass_at_k_b12.png"}
    files |= {"samples.jsonl"}
    transfer = {"transfer-results.json", "transfer-samples.jsonl", "transfer-pass_at_k_b12.png"}
    assert {path.name for path in run.iterdir()} == files | transfer | {
        "adapters",
        "report.html",
        "checkpoints",
        "sums.json",
        "times.md",
        ".lock",
    }
    content = json.loads((run / "results.json").read_text())
    assert [content[key] for key in ("experiment", "model", "dataset")] == ["math_sequence", "tiny", "arithmetic"]
    assert json.loads((run / "transfer-results.json").read_text())["dataset"].endswith("other.jsonl")
    table = (run / "results.md").read_text()
    for row in rows_of(run):
        if row["metric"] in ("pass@1", "pass@8"):
            assert f"| {100 * row['value']:.1f} ± {100 * row['ci95']:.1f} |" in table


@pytest.mark.parametrize(("name", "counts"), [("results.json", (12, 12, 12)), ("transfer-results.json", (5, 5, 5))])
def test_results_are_consistent(run: Path, name: str, counts: tuple[int, ...]) -> None:
    rows = {(row["method"], row["cot"], row["metric"]): row for row in rows_of(run, name)}
    assert list(rows) == [(m, cot, f"pass@{k}") for cot in COTS for m in METHODS for k in range(1, 9)]
    for (method, cot, metric), row in rows.items():
        assert (row["budget"], row["seeds"], row["n"]) == (12, 1, counts[COTS.index(cot)])
        best = rows["best static", cot, metric]
        assert ("gain" in row) == (method != "best static")
        if method != "best static":
            assert row["gain"]["over"] == "best static"
            assert row["gain"]["value"] == pytest.approx(row["value"] - best["value"])
            assert row["gain"]["ci95"][0] <= row["gain"]["value"] <= row["gain"]["ci95"][1]
        assert row["value"] <= rows["oracle", cot, metric]["value"]
    for method in ("mixed static", "LPO", "sequence adapter, no budget", "oracle"):
        for cot in COTS:
            values = [rows[method, cot, f"pass@{k}"]["value"] for k in range(1, 9)]
            assert values == sorted(values)  # one choice for all k
    assert max(row["value"] for row in rows.values()) > 0


def test_metrics_tell_the_training(run: Path) -> None:
    lines = read_metrics(run)
    scored = [line for line in lines if line.get("event") == "scored"]
    assert [line["questions"] for line in scored] == [2 * 16, 2 * 4, 2 * 12, 2 * 5]
    best = [line for line in lines if line.get("event") == "best static"]
    assert [line["cot"] for line in best] == list(COTS)
    assert {line[f"pass@{k}"] for line in best for k in (1, 2, 4, 8)} <= {"T 0.4, top-p 0.5", "T 1.2"}
    learnt = [line for line in lines if "update" in line]
    names = [f"{m}-{cot}" for cot in COTS for m in ("lpo", "sequence-adapter-no-budget", "sequence-adapter-budget")]
    assert [(line["method"], line["seed"], line["update"]) for line in learnt] == [(name, 5, 100) for name in names]
    for line in learnt:
        assert line["applied"] == 1
        assert 0 <= line["reward"] <= 1
        assert 0 <= line["validation_reward"] <= 1
        assert sum(line["action_probabilities"]) == pytest.approx(1, abs=1e-5)


def test_trained_adapters_load_and_generate(run: Path) -> None:
    lm = aj.load_lm("tiny")
    prompts = [aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=3)]
    adapter = aj.load_adapter(run, method="sequence-adapter-budget-none", lm=lm)
    assert (adapter.sees_samples, adapter.pooling, len(adapter.actions)) == (True, "both", 2)
    np.testing.assert_allclose(adapter.actions.temperature, [0.4, 1.2], rtol=1e-6)
    assert not aj.load_adapter(run, method="lpo-mix", seed=5).sees_samples
    for group in aj.generate(lm, prompts, policy=adapter, n=2, max_new_tokens=24, rows=8):
        assert len(set(np.concatenate([completion.actions for completion in group]).tolist())) == 1
        assert all(completion.text for completion in group)


def test_samples_show_what_methods_chose(run: Path) -> None:
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    (best,) = [line for line in read_metrics(run) if line.get("event") == "best static" and line["cot"] == "mix"]
    lm = aj.load_lm("tiny")
    problems = {problem.id: problem for problem in aj.load_problems("arithmetic", split="test", limit=12)}
    adapter = aj.load_adapter(run, method="sequence-adapter-budget-mix", lm=lm)
    names = {0.4: "T 0.4, top-p 0.5", 1.2: "T 1.2"}
    for k in (1, 8):
        fixed = [sample for sample in samples if sample["method"] == f"best static, B = {k}"]
        assert {name for sample in fixed for name in sample["actions"]} == {best[f"pass@{k}"]}
        chosen = [sample for sample in samples if sample["method"] == f"sequence adapter, budget, B = {k}"]
        assert chosen
        for sample in chosen:
            prompt = aj.prompt(lm, problems[sample["problem"]], cot=sample["cot"] == "all")
            (setting,) = aj.choose(lm, [prompt], adapter, samples=k)
            assert set(sample["actions"]) == {names[round(setting["temperature"], 3)]}


def test_the_embedded_task_has_problems_enough_to_train_on() -> None:
    assert MathSequence().splits.train_limit == 2048
    assert MathSequence(train_limit=16).splits.train_limit == 16
    assert MathSequence(model="smollm2").splits.train_limit is None


def test_kinds_of_questions() -> None:
    problems = aj.load_problems("arithmetic", limit=40)
    kinds = {kind(Question(problem, cot)) for problem in problems for cot in (True, False)}
    signs = {"++", "+-", "--", "+++", "++-", "+--", "---"}
    assert kinds == {f"{way} {sign}" for way in ("step by step", "direct") for sign in signs}
    other = aj.Problem("gsm8k/7", "How many?", "3")
    assert kind(Question(other, True)) == "step by step"


def test_which_questions_belong_to_which_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mix every problem was asked in both ways; question 3 could not be graded."""
    problems = aj.load_problems("arithmetic", limit=20)
    asked = questions(problems, "all") + questions(problems, "none")
    wins = np.random.default_rng(0).random((2, 40, 3, 8)) < 0.5
    embedded = np.arange(40, dtype=np.float32)[:, None]
    scores = ActionScores(wins.astype(np.float32), np.arange(40) != 3, np.zeros(5, int))
    monkeypatch.setattr("experiments.math_sequence.scored", lambda *_, **__: scores)
    monkeypatch.setattr("experiments.math_sequence.embeddings", lambda _: (embedded, embedded))
    part = Part("test", SimpleNamespace(questions=asked), [], 8, MathSequence(model="tiny", budget=(16, 9)), None)  # type: ignore[arg-type]

    def numbers(cot: str, **options: bool) -> list[int]:
        found = part.asked(cot, 16, **options)  # type: ignore[arg-type]
        own = found.last[:, 0].astype(int).tolist()
        np.testing.assert_array_equal(found.outcomes.rates(1), wins[1, own].mean(axis=2))  # budgets ascend
        assert list(found.kinds) == [kind(asked[n]) for n in own]
        return own

    assert numbers("all") == [n for n in range(20) if n != 3]
    assert numbers("none") == list(range(20, 40))
    ways = [n if question.cot else n + 20 for n, question in enumerate(questions(problems, "mix"))]
    assert numbers("mix") == sorted(set(ways) - {3})
    assert numbers("mix", each_way=True) == [n for n in range(40) if n != 3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"completions": 4}, "--completions 4: give at least 8"),
        ({"held_out_completions": 4}, "--held-out-completions 4: give at least 8"),
        ({"updates": 0}, "--updates 0: give at least 1"),
        ({"actions": Path("nowhere.json")}, "nowhere.json: no such file"),
        ({"actions": Path("{bad}")}, "bad.json, action 1: temperature must be at least 0"),
        ({"eval_dataset": "nonsense"}, "unknown data set 'nonsense'"),
        ({"eval_dataset": "arithmetic"}, "--eval-dataset arithmetic is --dataset"),
        ({"dataset": "programs"}, "--dataset programs holds programming problems"),
    ],
)
def test_a_flag_that_cannot_be_is_named(
    flags: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"actions": [{"temperature": -1}]}))
    if flags.get("actions") == Path("{bad}"):
        flags = {"actions": bad}
    with pytest.raises(SystemExit) as ended, exit_on_usage_error():
        main(MathSequence(model="tiny", limit=4, train_limit=8, run_dir=tmp_path / "run", **flags))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_summed_chances_take_the_place_of_draws(tmp_path: Path) -> None:
    """Chances of each action are those that 400 draws of it come to, in the table, too."""
    files = {"actions": tmp_path / "set.json", "run_dir": tmp_path / "run"}
    files["actions"].write_text(json.dumps({"actions": ACTIONS}))
    small = {"model": "tiny", "cot": "none", "limit": 6, "train_limit": 16, "updates": 100, "rows": 64, "budget": (12,)}
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        run = main(MathSequence(**small, **files, completions=32, held_out_completions=64, summed_chances=True))
    rows = {(row["method"], row["metric"]): row for row in rows_of(run)}
    assert list(rows) == [(m, f"pass@{k}") for m in METHODS for k in range(1, 9)]
    assert all("completions" not in row for row in rows.values())
    assert "not from draws" in (run / "results.md").read_text()
    lm = aj.load_lm("tiny")
    asked = aj.Environment(lm, aj.load_problems("arithmetic", split="test", limit=6), "none")
    shares = [evaluate(asked, aj.static(**action), [12], completions=400, rows=100).correct.mean() for action in ACTIONS]
    mixed = rows["mixed static", "pass@1"]["value"]
    assert mixed == pytest.approx(np.mean(shares), abs=0.03)
    [chosen] = [line for line in read_metrics(run) if line.get("event") == "best static"]  # on four validation problems
    share = shares[chosen["actions"].index(chosen["pass@1"])]
    assert rows["best static", "pass@1"]["value"] == pytest.approx(share, abs=0.03)
