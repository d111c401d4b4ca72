r"""Problems of the package reasoning-gym, named as `reasoning_gym:NAME?option=value&option=value`, scored by their generator.

A question belongs to one split by a hash of its text, and the seeds of a split are its own, so that splits share no question.
"""

import datetime
import difflib
import enum
import functools
import hashlib
import os
import re
import types
import typing
import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from adaptive_jax.tasks.maths import last_box
from adaptive_jax.tasks.problem import Problem, normalise_question

PREFIX = "reasoning_gym:"
DEFAULT_LIMIT = 1000
# (share of the questions, first seed); an item's seed is its data set's plus its place
SPLITS = {"test": (0.2, 0), "validation": (0.1, 2**28), "train": (0.7, 2**29)}
SEEDS = 2**28
# the size that reasoning-gym gives its data sets; some generators make all of it at once
CHUNK = 500
# so many items in a row without a new question: the generator has no more
BARREN = 1000
RUNS_ANSWERS = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), "eval"),
    **dict.fromkeys(
        ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"),
        "sympy.parse_expr, which evaluates it",
    ),
}

# found by making the same questions in two processes: a resumed run must meet the questions it began with
NEVER_REPEATS = ("codeio", "list_functions")
REPEATS_UNDER_HASH_SEED = ("isomorphic_strings", "knight_swap", "ransom_note", "word_ladder")
REFUSED = {name: f"its scorer executes the answer as code ({how})" for name, how in RUNS_ANSWERS.items()} | dict.fromkeys(
    NEVER_REPEATS, "its questions differ from process to process, whatever the seed"
)


def load(spec: str, split: str = "test", limit: int | None = None) -> list[Problem]:
    """The first problems of a split, in an order that never changes.

    Args:
      spec: `reasoning_gym:NAME` or `reasoning_gym:NAME?option=value&...`; lists are written `1,2,3`, truth values `true` and
        `false`.
      split: "train", "validation" or "test".
      limit: how many; `DEFAULT_LIMIT` without. Generators are endless, but some have fewer questions than that.

    Raises:
      ValueError: an unknown split, generator or option, a value the option cannot take, or a generator that is refused: its
        scorer executes the answer as code, or its questions cannot be repeated.
      ModuleNotFoundError: the package reasoning-gym is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: reasoning_gym has {', '.join(sorted(SPLITS))}")
    limit = DEFAULT_LIMIT if limit is None else limit
    if limit < 1:
        raise ValueError(f"limit {limit}: give at least 1")
    name, options = _parsed(spec)
    first = SPLITS[split][1]
    problems: list[Problem] = []
    seen: set[str] = set()
    barren = 0
    for place in range(SEEDS):
        dataset = _dataset(spec, first + place // CHUNK * CHUNK)
        try:
            entry = dataset[place % CHUNK]
        except Exception as fault:  # whatever its configuration let through
            raise ValueError(f"{spec}: {name} fails with these options: {fault!r}") from fault
        question = normalise_question(entry["question"])
        if question in seen or _split_of(question) != split:
            barren += 1
            if barren == BARREN:
                break
            continue
        barren = 0
        seen.add(question)
        metadata = {"spec": spec, "generator": name, "options": options, "entry": entry}
        answer = "" if entry["answer"] is None else str(entry["answer"])
        problems.append(Problem(f"{spec}/{split}/{place}", entry["question"], answer, "reasoning_gym", metadata=metadata))
        if len(problems) == limit:
            break
    if not problems:
        raise ValueError(f"{spec} makes too few different questions for a split {split!r}; give options that vary them")
    return problems


def reward(problem: Problem, text: str) -> float:
    r"""The generator's own score of the answer in a text, in [0, 1]; partly right answers may get a part.

    The answer is what follows the last "Answer:", else the last `\boxed{}`, else the last `<answer>` element, else all of the
    text, without white space around it.
    """
    score = _dataset(problem.metadata["spec"], 0).score_answer(_answer(text), problem.metadata["entry"])
    return min(max(float(score), 0.0), 1.0)


def _answer(text: str) -> str:
    _, marker, behind = text.rpartition("Answer:")
    if marker:
        return behind.strip()
    if (boxed := last_box(text)) is not None:
        return boxed.strip()
    if tagged := re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL):
        return tagged[-1].strip()
    return text.strip()


def _split_of(question: str) -> str:
    place = int.from_bytes(hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32
    for name, (share, _) in SPLITS.items():
        if place < share:
            return name
        place -= share
    return "train"


def _factory() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a dependency has faults that Python warns of when it compiles it
            import reasoning_gym  # registers the generators
            from reasoning_gym import factory
    except ImportError as fault:
        why = f"{PREFIX}... needs the package reasoning-gym ({fault}); install adaptive-jax[tasks]"
        raise ModuleNotFoundError(why) from None
    del reasoning_gym
    return factory


@functools.lru_cache(64)
def _dataset(spec: str, seed: int) -> Any:
    name, options = _parsed(spec)
    try:
        return _factory().create_dataset(name, seed=seed, size=CHUNK, **options)
    except (AssertionError, ValueError, TypeError) as fault:
        raise ValueError(f"{spec}: {name} refuses these options: {fault}") from fault


def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """The generator's name and its options, in the types of its configuration."""
    name, _, query = spec.removeprefix(PREFIX).partition("?")
    known = _factory().DATASETS
    if name in REFUSED:
        raise ValueError(
            f"{PREFIX}{name} is refused: {REFUSED[name]}; all generators but {', '.join(sorted(REFUSED))} are available"
        )
    if name in REPEATS_UNDER_HASH_SEED and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise ValueError(f"{PREFIX}{name} makes other questions in every process; set PYTHONHASHSEED=0 to repeat them")
    if name not in known:
        raise ValueError(f"{PREFIX} has no generator {name!r}; give one of {_by_likeness(name, known.keys() - REFUSED.keys())}")
    hints = typing.get_type_hints(known[name][1])
    hints = {option: hint for option, hint in hints.items() if option not in ("seed", "size")}
    options = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError(f"{spec}: write options as NAME?option=value&option=value") from None
    for option, text in pairs:
        if option not in hints:
            raise ValueError(f"{PREFIX}{name} has no option {option!r}; give one of {_by_likeness(option, hints.keys())}")
        try:
            options[option] = _value(text, hints[option])
        except ValueError as fault:
            raise ValueError(f"{PREFIX}{name}: option {option} is {text!r}; {fault}") from None
    return name, options


def _by_likeness(given: str, known: typing.AbstractSet[str]) -> str:
    """The names that can be given, the ones most like `given` first."""
    near = difflib.get_close_matches(given, sorted(known), n=3, cutoff=0.4)
    return ", ".join([*near, *sorted(known - set(near))]) or "none"


def _value(text: str, hint: Any) -> Any:
    """An option's value from its text, in the type that its configuration declares."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in parts and text.lower() == "none":
            return None
        for part in parts:
            if part is not type(None):
                try:
                    return _value(text, part)
                except ValueError as fault:
                    last = fault
        raise last
    if origin is typing.Literal or isinstance(hint, enum.EnumType):
        choices = {str(part): part for part in parts} or {str(member.value): member for member in hint}
        if text not in choices:
            raise ValueError(f"give {' or '.join(choices)}")
        return choices[text]
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("give true or false")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError("give a whole number" if hint is int else "give a number") from None
    if hint is str:
        return text
    if hint in (datetime.date, datetime.time):
        return hint.fromisoformat(text)
    if (origin or hint) in (list, tuple, Sequence):
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        kinds = [part for part in parts if part is not Ellipsis] or [str]
        if origin is tuple and Ellipsis not in parts and parts and len(items) != len(kinds):
            raise ValueError(f"give {len(kinds)} values with commas between them")
        values = [_value(item, kinds[min(place, len(kinds) - 1)]) for place, item in enumerate(items)]
        return tuple(values) if (origin or hint) is tuple else values
    raise ValueError("this option cannot be given as text; leave it out")
