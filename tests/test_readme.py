"""What README.md shows runs as it stands; only the numbers are made smaller."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import adaptive_jax as aj

README = Path(__file__).parents[1] / "README.md"
SMALLER = {"512": "16", "128": "4", "500": "6", "(48, 96)": "(12, 24)", "updates=60": "updates=2, prompts=4", "=96": "=24"}


def test_ones_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"## Your own task in 20 lines\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    for number, smaller in SMALLER.items():
        assert number in program
        program = program.replace(number, smaller)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        exec(program, names)
    assert [metrics["update"] for metrics in names["history"]] == [1, 2]
    assert names["scores"].rewards.shape == (6, 4, 2)
    assert 0 < names["scores"].rewards.mean() < 1
    assert len(capsys.readouterr().out.splitlines()) >= 2 + 5 + 1
    np.testing.assert_array_equal(names["done"][0][0].tokens, again(names["adapter"]))


def again(adapter: object) -> np.ndarray:
    """The first completion, by the adapter as it was saved."""
    lm = aj.load_lm("tiny")
    prompts = [aj.prompt(lm, problem) for problem in aj.load_problems("arithmetic", split="test", limit=4)]
    return aj.generate(lm, prompts, aj.load_adapter("my-adapter", lm=lm), n=2, max_new_tokens=24, seed=0)[0][0].tokens
