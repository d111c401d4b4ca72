"""Pass@k from summed chances of a small run that is there already, and runs that it cannot be had from."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptive_jax.evaluation.results import budget_rows
from adaptive_jax.runs.adapters import load_adapter
from experiments import chances, math_token
from experiments.chances import Chances, read_config
from experiments.math_sequence import MathSequence
from experiments.math_token import MathToken

STATIC = ["greedy", "static 0.5", "static 1", "static 1.25"]
LEARNT = ["entropy-only", "LPO", "token adapter, no budget", "token adapter, budget"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = {"model": "tiny", "cot": "none", "limit": 8, "train_limit": 16, "updates": 1, "prompts": 4, "rows": 12}
    budgets = {"budget": (6, 12), "completions": 3, "samples": 2, "held_out_completions": 64}
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        return math_token.main(MathToken(**small, **budgets, run_dir=folder))


def test_the_flags_of_a_run_are_read(run: Path) -> None:
    config = read_config(run)
    assert (config.model, config.budget, config.limit, config.run_dir) == ("tiny", (6, 12), 8, run)


def test_sums_are_what_the_run_drew(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        text = chances.main(Chances(run, out=tmp_path / "out", completions=64, rows=32, fit=20))
    assert text in capsys.readouterr().out
    assert (tmp_path / "out" / "chances.md").read_text() == text
    rows = json.loads((tmp_path / "out" / "chances.json").read_text())["rows"]
    found = {(row["method"], row["metric"], row["budget"]): row for row in rows}
    fitted = [f"{name}, exact gradient" for name in LEARNT if name != "LPO"]
    methods = ["best static", *STATIC, "mixed static", *LEARNT, *fitted]
    metrics = ["pass@1", "pass@2", "pass@4"]
    assert list(found) == [(method, metric, b) for metric in metrics for method in methods for b in (6, 12, "mean")]
    drawn = {
        (row["method"], row["metric"], row["budget"]): row for row in json.loads((run / "results.json").read_text())["rows"]
    }
    for key in found.keys() & drawn.keys():
        row = found[key]
        assert row["value"] == pytest.approx(drawn[key]["value"], abs=0.08), key  # 8 questions with 64 draws each
    assert len(found.keys() & drawn.keys()) == len(metrics) * 3 * (len(methods) - len(fitted))
    adapter = load_adapter(tmp_path / "out" / "adapters" / "token-adapter-budget-exact")
    assert adapter.actions.temperature.tolist() == [0.0, 0.5, 1.0, 1.25]
    assert found["greedy", "pass@1", 12]["value"] == found["greedy", "pass@4", 12]["value"]
    assert 0.1 < found["static 1.25", "pass@1", 12]["value"] < found["static 1.25", "pass@4", 12]["value"] - 0.1


def test_sums_that_miss_much_are_told(tmp_path: Path) -> None:
    drawn = {"method": "greedy", "cot": "none", "metric": "pass@1", "budget": "mean", "value": 0.5, "ci95": 0.03}
    (tmp_path / "results.json").write_text(json.dumps({"rows": [drawn]}))
    for summed, missed in ((0.48, False), (0.4, True)):
        rows = budget_rows("greedy", "none", "pass@1", [8], [np.full((4, 1), summed)])
        assert ("The sums miss much of greedy" in chances.beside_draws(tmp_path, rows)) == missed


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = {"experiment": "code_token"}
    cases = ((None, None, "config.json"), ({"model": "tiny"}, None, "not a run of math_token"))
    for content, results, named in (*cases, ({"samples": 1}, code, "not a run of math_token")):
        if content is not None:
            (tmp_path / "config.json").write_text(json.dumps(content))
        if results is not None:
            (tmp_path / "results.json").write_text(json.dumps(results))
        with pytest.raises(SystemExit) as ended:
            chances.main(Chances(tmp_path))
        assert ended.value.code == 2
        assert named in capsys.readouterr().err


def test_a_flag_that_cannot_be_is_named(tmp_path: Path) -> None:
    for flags, message in (({"completions": 0}, "--completions 0"), ({"fit": -1}, "--fit -1"), ({"rows": 0}, "--rows 0")):
        with pytest.raises(ValueError, match=message):
            Chances(tmp_path, **flags)
    with pytest.raises(ValueError, match="leave out --distributed"):
        MathSequence(summed_chances=True, distributed=True)
