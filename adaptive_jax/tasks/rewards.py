"""Reward functions that a user writes, called in worker processes that can be killed.

A function takes a problem and the text of one completion, and returns a number in [0, 1] or a bool. Whatever else it does
(raise, return None, print, hang, fork, end its process) costs at most the completion in hand.
"""

import base64
import hashlib
import importlib.util
import inspect
import logging
import pickle
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from adaptive_jax.tasks.problem import Grade, Problem
from adaptive_jax.tasks.workers import Failure, Pool

log = logging.getLogger(__name__)

SECONDS = 10.0  # of wall time for one completion
MEGABYTES = 2048  # of address space beyond what the function's imports take
LARGEST = 64 << 20  # bytes that a function may refer to: each worker gets them
HOPELESS = 100  # completions that all failed: then the function is wrong and not they
HOPELESS_TIMEOUTS = 10  # the same for those that ran out of time, which take long

Reward = Callable[[Problem, str], float]


class RewardFailed(RuntimeError):
    """A reward function failed on every one of the first completions."""


class RewardFunction:
    """A reward function, and the workers that call it.

    Workers start when first needed, and end when this object is no longer used, or with this process.

    Args:
        make: returns the function, in the worker; pickled by cloudpickle.
        name: what messages call it.
        seconds: wall time for one completion.
        megabytes: address space beyond what the function's imports take.
    """

    def __init__(self, make: Callable[[], Reward], name: str, *, seconds: float = SECONDS, megabytes: int = MEGABYTES):
        self.name = name
        self._seen = self._failed = self._late = 0
        self._first = ""
        self._kinds: set[str] = set()
        script = Path(__file__).with_name("reward_worker.py")
        try:
            setup = pickle.dumps((sys.path, cloudpickle.dumps(make)))
        except Exception as error:  # whatever the objects raise that it refers to
            raise ValueError(f"{name} can't be sent to its workers ({error}): let it refer to plain data only") from error
        if len(setup) > LARGEST:
            raise ValueError(f"{name} refers to {len(setup) >> 20} MiB, such as a model: let it refer to what it needs only")
        # -P: the script's folder, with its code.py, must not hide the standard library
        command = [sys.executable, "-P", str(script), str(megabytes)]
        self._pool = Pool(command, seconds, setup=base64.b64encode(setup).decode() + "\n")
        weakref.finalize(self, self._pool.close)

    def grades(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Grade]:
        """The verdict and value of each completion; equal ones are judged once. Safe to call from any thread.

        "correct" for 1.0, "wrong" for less, "timeout" where it ran out of time (value 0), "error" for every other fault, of
        which the first of each kind is logged with its traceback and the problem's id.

        Raises:
            RewardFailed: the first `HOPELESS` completions all failed.
        """
        pairs = list(zip(problems, texts, strict=True))
        distinct = list(dict.fromkeys(pairs))
        found: dict[tuple[Problem, str], Grade] = {}
        while len(found) < len(distinct):
            size = HOPELESS_TIMEOUTS if self._failed == self._seen else len(distinct)
            part = distinct[len(found) : len(found) + size]
            requests = [(base64.b64encode(pickle.dumps(problem)).decode(), text) for problem, text in part]
            for (problem, text), reply in zip(part, self._pool.replies(requests), strict=True):
                found[problem, text] = self._grade(problem, reply)
        return [found[pair] for pair in pairs]

    def _grade(self, problem: Problem, reply: Any) -> Grade:
        self._seen += 1
        if isinstance(reply, dict) and "value" in reply:
            value = reply["value"]
            return Grade("correct" if value == 1.0 else "wrong", value)
        self._failed += 1
        kind, detail = (reply.reason, reply.detail) if isinstance(reply, Failure) else (reply["error"], reply["detail"])
        late = kind == "timeout"
        self._late += late
        message = f"{self.name} failed on problem {problem.id!r} ({kind}): {detail.rstrip()}"
        self._first = self._first or message
        if kind not in self._kinds:
            self._kinds.add(kind)
            log.warning("%s", message)
        hopeless = kind == "start" or self._seen >= HOPELESS or self._late >= HOPELESS_TIMEOUTS
        if hopeless and self._failed == self._seen:
            raise RewardFailed(f"all of the first {self._seen} rewards failed; mend the function. The first: {self._first}")
        return Grade("timeout" if late else "error", 0.0)


def reward_function(function: Reward) -> RewardFunction:
    """A Python function as a reward; it may be a closure or stand in a notebook.

    Raises:
        ValueError: it can't be called with a problem and a text, or refers to what can't be pickled.
    """
    name = f"reward {getattr(function, '__name__', type(function).__name__)}"
    _check_signature(name, function)
    return RewardFunction(partial(_same, function), name)


def load_reward(spec: str) -> tuple[RewardFunction, str]:
    """The reward that FILE.py:FUNCTION names, and a digest of the file for a run's fingerprint.

    The file's folder is where it may import from.

    Raises:
        ValueError, FileNotFoundError: no such file or function, one that does not load, or of another signature.
    """
    name, (file, _, function) = f"--reward {spec}", spec.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not function.isidentifier():
        raise ValueError(f"{name}: write FILE.py:FUNCTION")
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {file}")
    make = partial(_from_file, str(path.resolve()), function)
    try:
        _check_signature(name, make())
    except AttributeError as error:
        raise ValueError(f"{name}: {error}") from None
    except (SyntaxError, ImportError, NameError) as error:
        raise ValueError(f"{name}: {file} does not load: {type(error).__name__}: {error}") from error
    return RewardFunction(make, name), hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _same(function: Reward) -> Reward:
    return function


def _from_file(file: str, function: str) -> Reward:
    path = Path(file)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None  # it has one for every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        defined = [name for name, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path.stem]
        raise AttributeError(f"{path.name} has no function {function}; it has: {', '.join(defined) or 'none'}")
    return getattr(module, function)


def _check_signature(name: str, function: Reward) -> None:
    """Raises ValueError where a function can't be called with a problem and a text."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(None, "")
    except TypeError as error:
        raise ValueError(f"{name} takes {signature} ({error}): write def reward(problem, text) -> float") from None
