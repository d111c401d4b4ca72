"""Reward functions of a user, in real worker processes: whatever they do, the others are judged."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptive_jax.tasks.problem import Problem
from adaptive_jax.tasks.rewards import RewardFailed, RewardFunction, load_reward, reward_function

ONE = Problem("one", "Q", "A")


def behaves(problem: Problem, text: str) -> object:
    """Does what the text says; the fault of each kind."""
    if text == "exits":
        sys.exit(3)
    if text == "dies":
        os._exit(3)
    if text == "forks" and os.fork() == 0:
        return 0.25  # the child must not answer for the parent
    if text == "prints":
        print('{"value": 0.125}', flush=True)
    if text == "reads":
        return 1.0 if not sys.stdin.read() else 0.0
    if text == "much":
        return len(bytearray(8 << 30))
    return {
        "none": None,
        "text": "1",
        "nan": float("nan"),
        "more": 1.5,
        "less": -0.5,
        "bool": True,
        "numpy": np.float32(0.5),
        "problem": float(problem.answer == "A"),
    }.get(text, 1.0)


def test_every_fault_costs_its_own_completion_only(caplog: pytest.LogCaptureFixture) -> None:
    faults = ["exits", "dies", "none", "text", "nan", "more", "less", "much"]
    sound = {"right": 1.0, "forks": 1.0, "prints": 1.0, "reads": 1.0, "bool": 1.0, "numpy": 0.5, "problem": 1.0}
    texts = ["right", *faults, *sound]
    with caplog.at_level(logging.WARNING):
        grades = reward_function(behaves).grades([ONE] * len(texts), texts)
    found = dict(zip(texts, grades, strict=True))
    assert {text: found[text].verdict for text in faults} == dict.fromkeys(faults, "error")
    assert {text: found[text].value for text in sound} == sound
    assert {text: found[text].verdict for text in sound} == {
        text: "correct" if value == 1.0 else "wrong" for text, value in sound.items()
    }
    told = [record.message for record in caplog.records]
    assert len(told) == 6, told  # one of each kind: exit, death, no number, NaN, out of range, memory
    assert all("'one'" in line for line in told)
    assert any("in behaves" in line and "SystemExit: 3" in line for line in told)


def test_a_reward_that_hangs_is_killed() -> None:
    def hangs(problem: Problem, text: str) -> float:
        time.sleep(1000.0 if text == "hangs" else 0.0)
        return 1.0

    grades = RewardFunction(lambda: hangs, "hangs", seconds=1.0).grades([ONE] * 3, ["a", "hangs", "b"])
    assert [grade.verdict for grade in grades] == ["correct", "timeout", "correct"]


def test_a_reward_that_always_fails_stops_the_run() -> None:
    def broken(problem: Problem, text: str) -> float:
        return 1 / len(text[:0])

    reward = reward_function(broken)
    few = [reward.grades([ONE], [str(number)])[0].verdict for number in range(99)]
    assert few == ["error"] * 99
    with pytest.raises(RewardFailed, match=r"(?s)all of the first 100 rewards failed.*'one'.*ZeroDivisionError"):
        reward.grades([ONE], ["the hundredth"])


@pytest.mark.parametrize("wrong", [lambda problem: 1.0, lambda: 1.0, lambda a, b, c: 1.0])
def test_a_wrong_signature_is_told_of_at_once(wrong: Callable) -> None:
    with pytest.raises(ValueError, match=r"write def reward\(problem, text\) -> float"):
        reward_function(wrong)


def test_what_cannot_be_sent_is_told_of() -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match="can't be sent to its workers"):
        reward_function(lambda problem, text: lock.locked())
    model = np.arange(2**23, dtype=np.float64)
    with pytest.raises(ValueError, match="refers to 64 MiB, such as a model"):
        reward_function(lambda problem, text: model[0])


def test_rewards_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORTH = 0.5\n")
    file = tmp_path / "mine.py"
    file.write_text("import helper\n\ndef mine(problem, text):\n    return helper.WORTH\n\ndef few(text):\n    return 1\n")
    reward, digest = load_reward(f"{file}:mine")
    assert reward.grades([ONE], ["x"])[0].value == 0.5
    file.write_text(file.read_text() + "# changed\n")
    assert load_reward(f"{file}:mine")[1] != digest
    for spec, fault in {
        f"{file}:others": "mine.py has no function others; it has: mine, few",
        f"{file}:few": "takes .text.*write def reward",
        f"{file}": "write FILE.py:FUNCTION",
        f"{tmp_path}/absent.py:mine": "there is no file",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=fault):
            load_reward(spec)
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(ValueError, match="does not load: ModuleNotFoundError: No module named 'nothing_of_this_name'"):
        load_reward(f"{file}:mine")
