"""The other side of the benchmark in a process of its own: it answers, or there is an error that says why, and soon."""

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptive_jax.lm.model import load_lm
from experiments.bench import opponent
from experiments.bench.opponent import Opponent, OpponentError, Side, available, checked_interpreter, hf_directory

SIDES = (opponent.TRANSFORMERS, opponent.TUNIX)
FAKE = Side("fake", "tests.experiments.fake_side", ("json",), "pip install fake")


def nodes(side: Side) -> list[ast.AST]:
    program = opponent.ROOT.joinpath(*side.program.split(".")).with_suffix(".py")
    return list(ast.walk(ast.parse(program.read_text(encoding="utf-8"))))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Opponent]:
    with Opponent(FAKE, sys.executable, tmp_path) as side:
        yield side


def test_it_answers_whatever_its_libraries_print(fake: Opponent, tmp_path: Path) -> None:
    assert fake.about["directory"] == str(tmp_path)
    for _ in range(2):
        answer = fake.generate([[7, 8], [9]], 3, repeat=2)
        assert answer.tokens == [[8, 8, 8], [9, 9, 9]]
        assert len(answer.seconds) == 2
        assert min(answer.seconds) > 0
        assert answer.compilations == (2, 0)


def test_numpy_tokens_are_sent(fake: Opponent) -> None:
    assert fake.generate(np.array([[7, 8]], np.int32), 1, stop_ids=np.array([2])).tokens == [[8]]  # type: ignore[arg-type]


def test_a_failed_request_is_an_error_and_the_next_is_answered(fake: Opponent) -> None:
    with pytest.raises(OpponentError, match=r"(?s)fake \(.*failed.*Traceback.*ValueError: cannot sample so: ") as error:
        fake.generate([[1]], 1, temperature=0.5, top_p=0.9, top_k=4, dtype="bfloat16", stop_ids=[2], seed=3)
    asked = {"dtype": "bfloat16", "seed": 3, "stop_ids": [2], "temperature": 0.5, "top_k": 4, "top_p": 0.9}
    assert str(error.value).endswith(str(list(asked.items())))
    assert fake.generate([[7]], 1).tokens == [[7]]


def test_one_that_dies_at_work_is_reported_now_and_later(fake: Opponent) -> None:
    for _ in range(2):
        with pytest.raises(OpponentError, match=r"(?s)fake .*ended with status 5.*out of memory"):
            fake.generate([[2]], 1)


def test_an_answer_without_what_was_asked_for_ends_it(fake: Opponent) -> None:
    with pytest.raises(OpponentError, match=r"answered with the fields \['tokens'\]"):
        fake.generate([[3]], 1)
    with pytest.raises(OpponentError, match="ended with status -9"):
        fake.generate([[7]], 1)


def test_one_that_falls_silent_is_not_waited_for(tmp_path: Path) -> None:
    with Opponent(FAKE, sys.executable, tmp_path) as side:
        side._patience = 0.1
        with pytest.raises(OpponentError, match=r"gave no answer for 0\.1 s"):
            side.generate([[4]], 1)


def test_it_ends_with_the_block(tmp_path: Path) -> None:
    with Opponent(FAKE, sys.executable, tmp_path) as side:
        os.kill(side.about["pid"], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(side.about["pid"], 0)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("dies", r"(?s)fake .*ended with status 1.*the weights are damaged"),
        ("garbage", r"answered 'Welcome to this library!', which is no JSON object"),
    ],
)
def test_one_that_does_not_start_is_an_error(tmp_path: Path, behaviour: str, message: str) -> None:
    with pytest.raises(OpponentError, match=message):
        Opponent(FAKE, sys.executable, tmp_path / behaviour)


def test_a_missing_module_is_named_with_what_installs_it(tmp_path: Path) -> None:
    side = replace(FAKE, needs=("json", "no_such_module_a", "no_such_module_b"))
    assert not available(side, sys.executable)
    with pytest.raises(ModuleNotFoundError) as error:
        Opponent(side, sys.executable, tmp_path)
    for words in (sys.executable, "no_such_module_a and no no_such_module_b", "`pip install fake`", "--fake-python"):
        assert words in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "another program"])
def test_what_is_no_interpreter_is_an_error(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "python"
    if kind != "missing":
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    assert not available(FAKE, program)
    with pytest.raises(FileNotFoundError, match=r"--fake-python .*python: .*`pip install fake`"):
        checked_interpreter(FAKE, program)


def test_an_interpreter_is_found_by_a_relative_path_without_following_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert checked_interpreter(FAKE, "bin/python") == str(tmp_path / "bin" / "python")


def test_both_sides_load_what_we_run() -> None:
    lm = load_lm("tiny")
    with hf_directory(lm.config, lm.params, lm.tokenizer) as directory:
        again = load_lm(directory)
    assert not directory.exists()
    assert again.config == lm.config
    assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    jax.tree.map(np.testing.assert_array_equal, again.params, lm.params)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_the_sides_need_nothing_of_ours_but_the_protocol(side: Side) -> None:
    """They run where this library is not installed."""
    imported = {node.module or "" for node in nodes(side) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes(side) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith(("adaptive_jax", "experiments"))} == {"experiments.bench.serving"}
    assert {name.split(".")[0] for name in imported} >= set(side.needs)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_the_sides_take_the_fields_of_a_request(side: Side) -> None:
    wanted = ["prompts", "new_tokens", *inspect.getfullargspec(Opponent.generate).kwonlyargs]
    (generate,) = (node for node in nodes(side) if isinstance(node, ast.FunctionDef) and node.name == "generate")
    assert [argument.arg for argument in generate.args.args] == wanted
