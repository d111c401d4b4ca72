"""The main experiment from the command line: a whole run, a killed one, and flags that cannot be."""

import dataclasses
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.runs.checkpoints import Checkpoints
from adaptive_jax.runs.directory import read_metrics
from adaptive_jax.runs.inspection import inspect_run
from adaptive_jax.runs.portable import read_portable
from adaptive_jax.runs.records import named_leaves
from adaptive_jax.tasks.grading import grade_many
from adaptive_jax.tasks.problem import Problem
from experiments import math_token
from experiments.launching import launch

ROOT = Path(__file__).parents[2]
# Direct answers, so that every prompt is of one width, and few rows: few programs to compile.
SMALL = "--model tiny --limit 24 --train-limit 32 --updates 2 --prompts 4 --completions 3 --rows 8 --cot none --budget 24 6"
SMALL += " --seed 5 --checkpoint-every 1 --samples 2"
ACTIONS = [{"temperature": 0.0}, {"temperature": 0.5}, {"temperature": 1.25, "top_p": 0.9}]
STATIC = ["greedy", "static 0.5", "static 1.25, top-p 0.9"]
FIXED = [*STATIC, "best static", "mixed static", "hand-written schedule", "oracle"]
LEARNT = ["entropy-only", "LPO", "token adapter, no budget", "token adapter, budget"]
METHODS = ["entropy-only", "lpo", "token-adapter-no-budget", "token-adapter-budget"]
FIELDS = {"method", "cot", "metric", "budget", "value", "ci95", "n", "seeds", "spread", "by_seed", "completions"}
CELLS = [("pass@1", 6), ("pass@1", 24), ("pass@1", "mean"), ("pass@2", 6), ("pass@2", 24), ("pass@2", "mean")]


def small(folder: Path) -> list[str]:
    """The flags of a small run with an action set of its own, and problems of another distribution."""
    return [*SMALL.split(), "--actions", str(folder / "set.json"), "--eval-dataset", str(folder / "other.jsonl")]


def start(run: Path, cache: Path, *flags: str) -> subprocess.Popen[str]:
    """A small run."""
    return python(cache, "-m", "experiments.math_token", *small(cache), "--run-dir", str(run), *flags)


def python(cache: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process; those of this file share a compilation cache."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compilation cache, an action set, and problems of another distribution."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "set.json").write_text(json.dumps({"actions": ACTIONS}))
    others = [{"id": f"other {n}", "question": f"Compute {n}+{n}.", "answer": str(2 * n)} for n in range(1, 6)]
    (folder / "other.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in others))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, str, str]:
    """Run directory, standard output and standard error of a run that was left alone."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with start(run, cache) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return run, out, err


def results(run: Path, name: str = "results.json") -> dict[str, Any]:
    return json.loads((run / name).read_text())


def test_a_run_leaves_what_is_promised(whole: tuple[Path, str, str]) -> None:
    run, out, err = whole
    files = {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "results.md",
        "samples.jsonl",
        "behaviour.json",
        "report.html",
    }
    others = {
        "transfer-results.json",
        "transfer-samples.jsonl",
        "transfer-behaviour.json",
        "adapters",
        "checkpoints",
        "sums.json",
        "times.md",
        ".lock",
    }
    figures = {"training.png", "budgets.png", "transfer-budgets.png"}
    assert {path.name for path in run.iterdir()} == files | figures | others
    description, sound = inspect_run(run)
    assert sound
    assert "all files are as they were written" in description
    for figure in figures:
        content = (run / figure).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) > 10_000
    config = json.loads((run / "config.json").read_text())
    asked = {"model": "tiny", "dataset": "arithmetic", "limit": 24, "budget": [24, 6], "cot": "none", "seed": 5}
    assert asked.items() <= config.items()
    assert config["run_dir"] == str(run)
    assert json.loads((run / "environment.json").read_text())["command"][1:3] == ["-m", "experiments.math_token"]
    assert str(run) in out
    assert (run / "results.md").read_text() in out
    assert "Traceback" not in err
    assert "Warning" not in err


PYTHON = """
import sys
from pathlib import Path
import adaptive_jax as aj
from experiments.math_token import load_actions
lm, actions = aj.load_lm("tiny"), aj.SamplingParams.stack(load_actions(Path(sys.argv[1])))
def asked(split, limit):
    return aj.Environment(lm, aj.load_problems("arithmetic", split=split, limit=limit), cot="none")
policy = aj.token_adapter(lm.config.hidden_size, actions=actions, budget_scale=24, seed=5)
options = dict(budgets=(6, 24), updates=2, prompts=4, completions=3, samples=2, rows=8, seed=5)
adapter, history = aj.train(asked("train", 32), policy=policy, validation=asked("validation", 8), **options)
aj.save_adapter(sys.argv[2], adapter, lm)
"""


def test_python_comes_to_the_bits_of_the_command_line(whole: tuple[Path, str, str], cache: Path, tmp_path: Path) -> None:
    with python(cache, "-c", PYTHON, str(cache / "set.json"), str(tmp_path / "own")) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    ours, theirs = (read_portable(path)[1] for path in (tmp_path / "own", whole[0] / "adapters" / "token-adapter-budget-seed5"))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


@pytest.mark.parametrize("prefix", ["", "transfer-"])
def test_twenty_completions_of_each_verdict_can_be_read(whole: tuple[Path, str, str], prefix: str) -> None:
    """As many as results.json counts, at most 20; each is graded again from its text and gets the verdict it is kept for."""
    samples = [json.loads(line) for line in (whole[0] / f"{prefix}samples.jsonl").read_text().splitlines()]
    found = Counter((sample["method"], sample["verdict"]) for sample in samples)
    counts = results(whole[0], f"{prefix}results.json")["verdicts"]
    assert found == {(name, v): min(20, n) for name, own in counts.items() for v, n in own.items() if n}
    kind = "math" if prefix else "integer"
    problems = [Problem(sample["problem"], sample["question"], sample["gold"], kind=kind) for sample in samples]
    assert grade_many(problems, [sample["text"] for sample in samples]) == [sample["verdict"] for sample in samples]
    assert {sample["budget"] for sample in samples} == {24, 6}
    assert len({(sample["method"], sample["problem"], sample["completion"], sample["budget"]) for sample in samples}) == len(
        samples
    )


@pytest.mark.parametrize(("name", "count"), [("results.json", 24), ("transfer-results.json", 5)])
def test_results_are_consistent(whole: tuple[Path, str, str], name: str, count: int) -> None:
    content = results(whole[0], name)
    assert [content[key] for key in ("experiment", "model")] == ["math_token", "tiny"]
    assert content["dataset"].rpartition("/")[2] == ("arithmetic" if count == 24 else "other.jsonl")
    rows = {(row["method"], row["metric"], row["budget"]): row for row in content["rows"]}
    assert list(rows) == [(method, *cell) for method in FIXED + LEARNT for cell in CELLS]
    assert len(rows) == len(content["rows"])
    for (method, metric, budget), row in rows.items():
        assert set(row) == FIELDS | ({"gain"} if method != "best static" else set())
        assert (row["cot"], row["n"], row["seeds"]) == ("none", count, 1)
        assert 0 <= row["value"] <= 1
        assert row["ci95"] == pytest.approx(1.96 * (row["value"] * (1 - row["value"]) / count) ** 0.5)
        assert row["by_seed"] == [row["value"]]
        assert row["completions"] == 2
        assert row["spread"] == 0
        assert row["value"] <= rows[method, "pass@2", budget]["value"]
        assert row["value"] <= rows["oracle", metric, budget]["value"] or method not in STATIC
        if method != "best static":
            assert row["gain"]["over"] == "best static"
            assert row["gain"]["value"] == pytest.approx(row["value"] - rows["best static", metric, budget]["value"])
            assert row["gain"]["ci95"][0] <= row["gain"]["value"] <= row["gain"]["ci95"][1]
        if budget == "mean":
            assert row["value"] == pytest.approx((rows[method, metric, 6]["value"] + rows[method, metric, 24]["value"]) / 2)
        else:
            wins = (2 if metric == "pass@1" else 1) * count * row["value"]  # two completions
            assert wins == pytest.approx(round(wins), abs=1e-4)
    assert max(row["value"] for row in rows.values()) > 0
    assert set(content["verdicts"]) == {*FIXED, *LEARNT} - {"best static", "oracle"}
    table = (whole[0] / "results.md").read_text()
    for (method, _, _), row in rows.items():
        found = re.findall(rf"^\| {re.escape(method)} \|.*", table, re.M)
        assert len(found) == 4  # two metrics of two data sets
        assert any(f"| {100 * row['value']:.1f} ± {100 * row['ci95']:.1f} |" in line for line in found)


def test_best_static_is_chosen_on_validation_problems(whole: tuple[Path, str, str]) -> None:
    """By the verdicts of the stages that only validation problems are in; on test problems it is then that action's row."""
    stages = whole[0] / "checkpoints"
    folders = ["greedy", "static-0.5", "static-1.25-top-p-0.9"]
    tried = [Checkpoints(stages / f"validating-{folder}").newest()[1].arrays["rewards"] for folder in folders]
    assert {rewards.shape for rewards in tried} == {(8, 16, 2)}
    reached = {"pass@1": [wins.mean(axis=(0, 1)) for wins in tried]}
    pairs = [wins[:, list(pair)].max(axis=1).mean(axis=0) for wins in tried for pair in itertools.combinations(range(16), 2)]
    reached["pass@2"] = np.reshape(pairs, (3, 120, 2)).mean(axis=1).tolist()
    lines = {line["metric"]: line for line in read_metrics(whole[0]) if line.get("event") == "best static"}
    rows = {(row["method"], row["metric"], row["budget"]): row["value"] for row in results(whole[0])["rows"]}
    for metric, means in reached.items():
        for budget, column in ((6, 0), (24, 1)):
            best = STATIC[int(np.argmax([mean[column] for mean in means]))]
            assert lines[metric][f"b = {budget}"] == best
            assert rows["best static", metric, budget] == rows[best, metric, budget]


def test_metrics_tell_the_training(whole: tuple[Path, str, str]) -> None:
    settings, *best = (line for line in read_metrics(whole[0]) if "event" in line)
    lines = [line for line in read_metrics(whole[0]) if "update" in line]
    assert [line["event"] for line in best] == ["best static"] * 2
    assert settings["event"] == "settings"
    assert settings["seed 5"]["prompts"] == 4
    assert settings["seed 5"]["budgets"] == [6, 24]
    assert settings["seed 5"]["samples"] == 2
    assert [(line["method"], line["update"]) for line in lines] == [(m, u) for m in METHODS for u in (1, 2)]
    assert {line["seed"] for line in lines} == {5}
    for line in lines:
        assert line["applied"]
        assert line["grader_errors"] == 0
        assert line["decisions"] > 0
        assert sum(line["action_probabilities"]) == pytest.approx(1, abs=1e-5)
        assert 0 <= line["reward"] <= 1
        assert 0 <= line["validation_reward"] <= 1
    assert lines[0]["action_probabilities"] == pytest.approx([1 / 3] * 3)


def test_trained_adapters_load_and_generate(whole: tuple[Path, str, str]) -> None:
    run = whole[0]
    lm = aj.load_lm("tiny")
    prompts = [aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=4)]
    adapter = aj.load_adapter(run)
    assert (adapter.inputs, adapter.budget_scale) == ("hidden+budget", 24)
    actions = SamplingParams.stack([SamplingParams(**action) for action in ACTIONS])
    for found, wanted in zip(jax.tree.leaves(adapter.actions), jax.tree.leaves(actions), strict=True):
        np.testing.assert_array_equal(found, wanted)
    untrained = aj.token_adapter(lm.config.hidden_size, actions=actions, budget_scale=24, seed=5)
    state = Checkpoints(run / "checkpoints" / "training-token-adapter-budget-seed-5").newest()[1].arrays
    for name, before in named_leaves(untrained.params).items():
        after, kept = state[f"adapter.params.{name}"], state[f"best.params.{name}"]
        assert np.isfinite(after).all()
        assert (before != after).any()
        np.testing.assert_array_equal(named_leaves(adapter.params)[name], kept)  # the best action alone, perhaps
    done = aj.generate(lm, prompts, policy=adapter, n=2, max_new_tokens=24, rows=8)
    for completion in (completion for group in done for completion in group):
        assert completion.text
        assert len(completion.actions) == len(completion.tokens)
    chosen = np.concatenate([completion.actions for group in done for completion in group])
    assert set(chosen.tolist()) <= {0, 1, 2}
    for method, inputs in (("entropy-only", "entropy"), ("lpo", "hidden"), ("token-adapter-no-budget", "hidden")):
        assert aj.load_adapter(run, method=method, seed=5).inputs == inputs


def wait_for(process: subprocess.Popen[str], file: Path, words: str = "") -> None:
    """Until a file is there and holds some words."""
    while not (file.exists() and words in file.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_a_run_that_is_killed_and_goes_on_comes_to_the_same(tmp_path: Path, cache: Path, whole: tuple[Path, str, str]) -> None:
    """SIGKILL during training, the same command again: bit for bit what a run that was left alone gives."""
    run = tmp_path / "cut short"
    with start(run, cache) as process:
        checkpoint = run / "checkpoints" / "training-entropy-only-seed-5" / "000001" / "manifest.json"
        while not checkpoint.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.kill()
    assert json.loads((run / "config.json").read_text())["limit"] == 24
    lines = read_metrics(run)
    assert lines == read_metrics(whole[0])[: len(lines)]
    rows = results(run)["rows"]
    assert [row["method"] for row in rows[::6]] == FIXED
    assert rows == results(whole[0])["rows"][: len(rows)]  # the seed fixes every draw

    with start(run, cache) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert f"going on with the run in {run}: checkpoints of 14 stages are there" in out
    for name in ("results.json", "transfer-results.json", "results.md", "metrics.jsonl", "samples.jsonl"):
        assert (run / name).read_bytes() == (whole[0] / name).read_bytes()
    assert durable(run) == durable(whole[0])
    assert len(durable(run)) == 3 + 2 * 5 + 4 * 3 + 4
    assert inspect_run(run)[1]


def durable(run: Path) -> dict[str, dict[str, bytes]]:
    """The arrays of every stage's newest checkpoint, and of the adapters."""
    stages = {path.name: Checkpoints(path).newest()[1].arrays for path in (run / "checkpoints").iterdir()}
    adapters = {path.name: read_portable(path)[1] for path in (run / "adapters").iterdir()}
    return {name: {key: a.tobytes() for key, a in arrays.items()} for name, arrays in (stages | adapters).items()}


# Flags: in this process, as a start takes seconds


@pytest.fixture
def _loggers() -> Iterator[None]:
    """`launch` turns the console's log lines on; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in ("adaptive_jax", "experiments")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


def run_with(monkeypatch: pytest.MonkeyPatch, *flags: str) -> str | int | None:
    """What the program ends with."""
    monkeypatch.setattr(sys, "argv", ["math_token", *flags])
    with pytest.raises(SystemExit) as ended:
        launch(math_token.main, math_token.MathToken, math_token.__doc__)
    return ended.value.code


@pytest.mark.usefixtures("_loggers")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--limit 0", "--limit 0: give at least 1"),
        ("--train-limit 0", "--train-limit 0: give at least 1"),
        ("--seeds 0", "--seeds 0: give at least 1"),
        ("--seed -1", "--seed -1: give at least 0"),
        (f"--seed {2**63}", f"--seed {2**63}: seeds are less than 2.32"),
        (f"--seed {2**32 - 2} --seeds 3", "seeds are less than 2.32"),
        ("--learning-rate nan", "--learning-rate nan: give at least 0, and a finite number"),
        ("--learning-rate inf", "--learning-rate inf: give at least 0, and a finite number"),
        ("--entropy-bonus nan", "--entropy-bonus nan: give at least 0, and a finite number"),
        ("--completions 1000000000", "GiB: lower --completions"),
        ("--allow-changed nonsense", "--allow-changed nonsense: no such field; there are experiment, model"),
        ("--rows -1", "--rows -1: give at least 1"),
        ("--updates 0", "--updates 0: give at least 1"),
        ("--prompts 0", "--prompts 0: give at least 1"),
        ("--completions 1", "--completions 1: give at least 2"),
        ("--samples 0", "--samples 0: give at least 1"),
        ("--samples 8", "--samples 8: give less than --completions, which is 8"),
        ("--skip -1", "--skip -1: give at least 0"),
        ("--actions nowhere.json", "nowhere.json: no such file"),
        ("--eval-dataset forks", "--eval-dataset forks is --dataset"),
        ("--eval-dataset programs", "--eval-dataset programs holds programming problems"),
        ("--checkpoint-every 0", "--checkpoint-every 0: give at least 1"),
        ("--run-dir None --resume", "--resume goes with --run-dir: name the run"),
        ("--validate-every 0", "--validate-every 0: give at least 1"),
        ("--budget 0", "--budget 0: .*at least 1"),
        ("--budget 16 -2", "--budget 16 -2: .*at least 1"),
        ("--model nonsense", "no model 'nonsense'; accepted are"),
        ("--dataset nonsense", "unknown data set 'nonsense': give one of"),
        ("--dataset nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("--dataset programs", "--dataset programs holds programming problems"),
        ("--dataset {bad} --limit 1", "bad.jsonl, line 2: .*not JSON"),
        ("--dataset {few} --limit 8", "few.jsonl has 8 problems.*--limit 8.*lower them"),
        ("--train-dataset nowhere.jsonl --limit 8", "nowhere.jsonl: no such file"),
        ("--budget 1024 --limit 8 --train-limit 8", "token budget of 1024 do not fit the model's context of 1024"),
        ("--run-dir {taken} --limit 8 --train-limit 8", "taken holds a run already, .*cannot go on: choose another --run-dir"),
    ],
)
def test_a_flag_that_cannot_be_is_named(
    flags: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = json.dumps({"question": "1+{}?", "answer": "2"}) + "\n"
    (tmp_path / "bad.jsonl").write_text(question + "{broken\n")
    (tmp_path / "few.jsonl").write_text("".join(question.replace("{}", str(n)) for n in range(8)))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    flags = flags.format(bad=tmp_path / "bad.jsonl", few=tmp_path / "few.jsonl", taken=tmp_path / "taken")
    if "--run-dir" not in flags:
        flags += f" --run-dir {tmp_path / 'run'}"
    assert run_with(monkeypatch, *flags.split()) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) <= 7  # a line, or where it is the flag itself, the parser's box around one
    assert re.search(message, re.sub(r"[╭╮╰╯─│\s]+", " ", told))
    assert "Traceback" not in told
    assert sorted(tmp_path.rglob("*")) == before  # no empty run is left behind


@pytest.mark.usefixtures("_loggers")
def test_going_on_with_something_else_is_refused(
    whole: tuple[Path, str, str], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != ".lock"}
    assert run_with(monkeypatch, *small(cache), "--train-limit", "28", "--run-dir", str(whole[0]), "--resume") == 2
    told = capsys.readouterr().err
    assert re.search(
        r"train-limit was 32 and is 28; .*training-problems was \"32 problems \w+\" and is \"28 problems \w+\"\. "
        r"--allow-changed train-limit validation-problems training-problems goes on",
        told,
    )
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*") if path.name != ".lock"} == before


@pytest.mark.usefixtures("_loggers")
def test_help_tells_every_flag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(math_token.MathToken)}
    assert {"--model", "--dataset", "--limit", "--seeds", "--seed", "--budget", "--cot", "--run-dir"} <= flags
    assert flags <= set(re.findall(r"--[a-z-]+", told))
    assert "--cot {none,all,mix}" in told
    words = re.sub(r"[│\s]+", " ", told)
    for text in ("how many held-out problems are evaluated", "policy-gradient updates per adapter", "arXiv 2603.09065"):
        assert text in words


@pytest.mark.usefixtures("_loggers")
def test_an_unknown_flag_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, "--temprature", "1") not in (0, None)
    assert "--temprature" in "".join(capsys.readouterr())
