"""Exports as users use them: the model card's example as it stands, and problems by the thousand.

`uv run --group torch pytest -m torch` runs these tests.
"""

import base64
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.evaluation.statistics import paired_ci95
from adaptive_jax.export.transformers import export_transformers
from adaptive_jax.runs.hub import upload
from tests.export.cases import case, exported, padded
from tests.runs.fake_hub import TOKEN, FakeHub

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

PROBLEMS, BUDGET, ROWS = 1000, 48, 250


def run_example(directory: Path, **variables: str) -> str:
    """What the example of that model card prints, a program of its own, run beside the export; it decodes fewer tokens."""
    (program,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    assert "max_new_tokens=256" in program
    program = program.replace("max_new_tokens=256", "max_new_tokens=16")
    own = {"HF_HOME": str(directory.parent / "home"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=directory.parent, env=os.environ | own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cards_example_runs_from_a_hub(lm: aj.LM, hub: FakeHub, tmp_path: Path) -> None:
    aj.save_adapter(tmp_path / "mine", case("centred"), lm)
    export_transformers(tmp_path / "mine", tmp_path / "out", repository="me/mine", model=lm)
    upload(tmp_path / "out", "me/mine")
    printed = run_example(tmp_path / "out", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0")
    assert "What is 17 plus 25?" in printed
    assert any("/me/mine/resolve/" in request and "generate.py" in request for request in hub.requests)


def test_the_cards_example_runs_where_the_export_is(tmp_path: Path) -> None:
    lm = aj.load_lm("smollm2")
    aj.save_adapter(tmp_path / "mine", case("both", lm.config.hidden_size), lm)
    export_transformers(tmp_path / "mine", tmp_path / "out", model=lm)
    assert "What is 17 plus 25?" in run_example(tmp_path / "out")


def test_as_many_problems_are_solved(lm: aj.LM, model: Any, torch: Any, tmp_path: Path) -> None:
    """Pass@1 of a trained adapter on a thousand problems, by both libraries with draws of their own.

    The paired interval of the difference has 0 in it, and is narrow enough to tell the adapter from one that is not trained.
    """
    train = aj.Environment(lm, aj.load_problems("arithmetic", split="train", limit=256), cot="all")
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        adapter, _ = aj.train(train, budgets=(BUDGET,), updates=20, seed=0)
    problems = aj.load_problems("arithmetic", split="test", limit=PROBLEMS)
    test = aj.Environment(lm, problems, cot="all")
    ours, untrained = (
        aj.evaluate(test, policy, budgets=(BUDGET,), completions=1, seed=0).pass_at(1)[:, 0]
        for policy in (adapter, aj.token_adapter(lm.config.hidden_size))
    )
    aj.save_adapter(tmp_path / "mine", adapter, lm)
    export_transformers(tmp_path / "mine", tmp_path / "out", model=lm)
    prompts = [aj.prompt(lm, problem, cot=True) for problem in problems]
    torch.manual_seed(0)
    texts: list[str] = []
    for start in range(0, PROBLEMS, ROWS):
        ids, mask = padded(lm, prompts[start : start + ROWS])
        out = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            custom_generate=str(tmp_path / "out"),
            trust_remote_code=True,
            max_new_tokens=BUDGET,
        )
        texts += lm.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    theirs = np.array([verdict == "correct" for verdict in aj.grade_many(problems, texts)], float)
    low, high = paired_ci95(theirs - ours)
    print(f"Pass@1 {100 * ours.mean():.1f} here, {100 * theirs.mean():.1f} by transformers, difference {low:.3f} to {high:.3f}")
    assert low <= 0 <= high
    assert paired_ci95(theirs - untrained)[0] > 0


@pytest.mark.parametrize("kind", ["centred", "both", "filtered"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_is_computed_where_the_model_is(
    kind: str, dtype: str, lm: aj.LM, torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which need not be there: tensors without values refuse to meet tensors of another device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    code = f"code_{kind}_{dtype}"  # a name of its own: Python keeps what it has imported
    shutil.copytree(Path(exported(kind, lm, tmp_path)) / "custom_generate", tmp_path / code)
    monkeypatch.syspath_prepend(str(tmp_path))
    generate = importlib.import_module(f"{code}.generate")
    shapes = {name: array.shape for name, array in generate.load(base64.b64decode(generate.WEIGHTS)).items()}
    monkeypatch.setattr(generate, "load", lambda content: {name: torch.empty(shape) for name, shape in shapes.items()})
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)  # every branch is taken
    with FakeTensorMode(allow_non_fake_inputs=False):
        gpu = {"device": "cuda:0"}
        budgets = torch.empty(2, dtype=torch.long, **gpu)
        policy = generate.Policy(torch.ones(2, 5, dtype=torch.long, **gpu), 2, budgets, None)
        for width in (5, 1):  # the prompt, and a step with a cache
            states = torch.empty(2, width, lm.config.hidden_size, dtype=getattr(torch, dtype), **gpu)
            policy.see(None, (), SimpleNamespace(last_hidden_state=states))
            scores = policy(torch.empty(2, 5, dtype=torch.long, **gpu), torch.empty(2, lm.config.vocab_size, **gpu))
            for found in (scores, policy.actions[-1], policy.probabilities[-1]):
                assert str(found.device) == "cuda:0"
