"""Exports, without PyTorch: what transformers did with them once (`make_golden.py`), and what is in them."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.__main__ import main
from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.runs.fingerprint import model_fingerprint
from tests.export.cases import KINDS, case, probabilities

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_as_probable_as_under_transformers(lm: aj.LM, kind: str) -> None:
    """The adapters are those of the golden files: that portable adapters of then can be read is tested, too."""
    adapter = load_adapter(GOLDEN / kind, lm=lm)
    expected = np.load(GOLDEN / kind / "expected.npz")
    budgets, start = expected["budgets"], int(expected["start"])
    samples = 2
    found = probabilities(lm, adapter, expected["tokens"], expected["mask"], start, budgets, samples)
    assert found.shape == expected["probabilities"].shape
    for row, budget in enumerate(budgets):
        np.testing.assert_allclose(found[row, :budget], expected["probabilities"][row, :budget], atol=1e-4)


def run(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["adaptive_jax", "export", "--to", "transformers", *flags])
    return main()


def test_a_run_is_exported_with_its_results(lm: aj.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "run" / "adapters" / "token-adapter-budget-seed0"
    aj.save_adapter(place, case("centred"), lm)
    config = {"model": "tiny", "dataset": "/home/me/sums.jsonl", "run_dir": "/home/me/run"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    shared = {"cot": "none", "metric": "pass@1", "budget": 48, "ci95": 0.03, "n": 1000}
    rows = [
        {"method": method, "value": value, **shared} for method, value in (("greedy", 0.2), ("token adapter, budget", 0.595))
    ]
    (tmp_path / "run" / "results.json").write_text(json.dumps({"experiment": "math_token", "rows": rows}))
    out = tmp_path / "out"
    for _ in range(2):  # the second takes the place of the first
        assert run(monkeypatch, str(tmp_path / "run"), "--out", str(out)) == 0
    described = json.loads((out / "adapter_config.json").read_text())
    trained = {"model": "tiny", "dataset": "sums.jsonl", "experiment": "math_token"}  # and nobody's directories
    assert (described["base_model"], described["trained"], described["results"]) == ("tiny", trained, rows[1:])
    assert (described["name"], described["license"]) == (place.name, "apache-2.0")
    assert described["fingerprint"].items() >= model_fingerprint(lm).items()
    loaded = load_adapter(out, lm=lm)
    np.testing.assert_array_equal(loaded.params["first"]["kernel"][...], case("centred").params["first"]["kernel"][...])
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "On sums.jsonl, by math_token." in card
    assert "| pass@1 | none | 48 | 59.5% | ± 3.0 | 1000 | 1 |" in card
    assert 'custom_generate="out", trust_remote_code=True, max_new_tokens=256' in card
    for file in (out / "custom_generate").iterdir():
        ast.parse(file.read_text())


def test_what_cannot_be_exported_is_told(
    lm: aj.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aj.save_adapter(tmp_path / "nameless", case("centred"))
    assert run(monkeypatch, str(tmp_path / "nameless"), "--out", str(tmp_path / "out")) == 2
    assert "does not say with which model it was trained: give --model" in capsys.readouterr().err
    aj.save_adapter(tmp_path / "mine", case("centred"), lm)
    assert run(monkeypatch, str(tmp_path / "mine"), "--out", str(tmp_path)) == 2
    assert "holds something else than an export: give --out a new directory" in capsys.readouterr().err
    aj.save_adapter(tmp_path / "others", case("centred"), fingerprint={"weights": "float32 0", "tokenizer": "0"})
    assert run(monkeypatch, str(tmp_path / "others"), "--out", str(tmp_path / "out"), "--model", "tiny") == 2
    assert "was made with something else: weights was" in capsys.readouterr().err
    assert run(monkeypatch, str(tmp_path / "none"), "--out", str(tmp_path / "out")) == 2
    assert "no adapter for method 'token-adapter-budget' in " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
