"""What a server is told is what the loop would have done."""

import json
import re
from pathlib import Path

import pytest

import adaptive_jax as aj
from tests.export.cases import TINY_WIDTH, case
from tests.export.openai_server import openai_server
from tests.policies.adapters import with_random_head

README = Path(aj.__file__).parent / "export" / "README.md"
SETTINGS = [aj.SamplingParams(0.0), aj.SamplingParams(0.7, top_p=0.9), aj.SamplingParams(1.25, top_k=8, min_p=0.05)]


def test_each_prompt_gets_the_setting_that_its_completions_would_hold(lm: aj.LM) -> None:
    plain = [
        {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": -1, "min_p": 0.0},
        {"temperature": 1.25, "top_p": 1.0, "top_k": 8, "min_p": 0.05},
    ]
    untrained = aj.sequence_adapter(TINY_WIDTH, aj.SamplingParams.stack(SETTINGS), width=16)
    adapter = with_random_head(untrained, 3.0, 2)
    prompts = [aj.prompt(lm, problem, cot=False) for problem in aj.load_problems("arithmetic", split="test", limit=12)]
    seen = set()
    for samples in (1, 8):
        done = aj.generate(lm, prompts, adapter, n=samples, max_new_tokens=1)
        actions = [int(group[0].actions[0]) for group in done]
        assert json.loads(json.dumps(aj.choose(lm, prompts, adapter, samples=samples))) == [plain[a] for a in actions]
        seen |= {*actions}
    assert len(seen) > 1
    assert aj.choose(lm, [], adapter) == []


def test_a_server_told_so_gives_the_same_completions(
    lm: aj.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's example as it stands, but for the address."""
    (program,) = re.findall(r"```python\n(import json\n.*?)```", README.read_text(), re.DOTALL)
    adapter = with_random_head(aj.sequence_adapter(TINY_WIDTH, aj.SamplingParams.stack(SETTINGS), width=16), 3.0, 2)
    aj.save_adapter(tmp_path / "my-adapter", adapter, lm)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with openai_server(lm) as address:
        assert "http://localhost:8000" in program
        exec(program.replace("http://localhost:8000", address), names)
    done = aj.generate(lm, names["prompts"], adapter, n=8, max_new_tokens=48, seed=0)
    printed = capsys.readouterr().out.splitlines()
    assert [line[line.index("} ") + 2 :] for line in printed] == [str([one.text for one in group]) for group in done]
    assert len({line[: line.index("}")] for line in printed}) > 1  # not one setting for all


def test_what_cannot_be_chosen_is_told(lm: aj.LM) -> None:
    adapter = case("both")
    with pytest.raises(TypeError, match=r"prompts is a string: give a list"):
        aj.choose(lm, "5+7", adapter)
    with pytest.raises(TypeError, match="TokenAdapter, which chooses anew for each token: give a sequence adapter"):
        aj.choose(lm, ["5+7"], case("centred"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples is 0: give at least 1"):
        aj.choose(lm, ["5+7"], adapter, samples=0)
    with pytest.raises(ValueError, match="belongs to a model of hidden size 6, and this one has 96"):
        aj.choose(lm, ["5+7"], case("both", 6))
    with pytest.raises(ValueError, match="is empty"):
        aj.choose(lm, [""], adapter)
