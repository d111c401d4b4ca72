r"""Problems by name or from a file, in the field names of their sources.

A row is recognised by its fields; one that is null counts as missing:

    ==============  =====================================  ============================================
    source          fields                                 answer
    ==============  =====================================  ============================================
    ours            id?, problem or question, answer       as it stands
    GSM8K           question, answer                       what follows the last `####` of `answer`
    MATH, AIME      problem, solution, answer?             `answer`, else the solution's last `\boxed{}`
    SVAMP           Body, Question, Answer                 `Answer`
    CodeContests    description, tests                     every test: [{"input", "output"}, ...]
    CodeContests    description, public_tests, ...         the same, or as published {"input": [...], "output": [...]}
    IFEval          prompt, instruction_id_list, kwargs    none: the instructions judge the text
    ==============  =====================================  ============================================

A program's row may have a `time_limit` for each test, in seconds or as CodeContests writes it (`problem.time_limit`).
"""

import importlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptive_jax.tasks import reasoning
from adaptive_jax.tasks.ifeval import read_instructions
from adaptive_jax.tasks.maths import last_box
from adaptive_jax.tasks.problem import Case, MalformedRow, MissingPackage, Problem, question_id, time_limit

log = logging.getLogger(__name__)

# name -> (hub id, configuration, splits)
HUB: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "math": ("DigitalLearningGmbH/MATH-lighteval", None, ("train", "test")),
    "math500": ("HuggingFaceH4/MATH-500", None, ("test",)),
    "gsm8k": ("openai/gsm8k", "main", ("train", "test")),
    "svamp": ("ChilleD/SVAMP", None, ("train", "test")),
    "aime2025": ("math-ai/aime25", None, ("test",)),
    "ifeval": ("google/IFEval", None, ("train",)),
    "code_contests": ("deepmind/code_contests", None, ("train", "valid", "test")),
}
STREAMED = ("code_contests",)  # too large to fetch whole for a few problems
GENERATED = ("arithmetic", "forks", "fork_programs", "instructions")
EMBEDDED = (*GENERATED, "programs")
SUFFIXES = (".jsonl", ".json", ".parquet")
TESTS = ("tests", "public_tests", "private_tests", "generated_tests")
SOURCE = ("id", "ID", "unique_id", "key", "name", "prompt", "description", "problem", "question", "answer", "Answer", *TESTS)


Row = Mapping[str, Any]
# (place, row), or (place, fault) for a row that could not even be read
Rows = Iterator[tuple[str, Row | MalformedRow]]


def load_problems(
    name_or_path: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    skip_bad: bool = False,
    answered: bool = True,
) -> list[Problem]:
    """The first `limit` problems of a known data set or of a file.

    Args:
      name_or_path: `arithmetic`, `forks`, `fork_programs`, `instructions` or `programs` (embedded),
        `reasoning_gym:NAME?option=value&...` (see `reasoning.load`), a name in `HUB` (fetched once, then cached), or the path
        of a `.jsonl`, `.json` or `.parquet` file, which has no splits: all of it is taken.
      split: which part of a named data set.
      limit: how many problems at most.
      skip_bad: leave malformed rows out, and log how many, instead of raising.
      answered: rows must have an answer; where a reward function of one's own judges, they need none.

    Raises:
      ValueError: unknown name or split, bad limit, no problem left, or a malformed row (with file, line and field).
      FileNotFoundError: the path names no file.
      ConnectionError: the hub cannot be reached and the data set is not in its cache.
    """
    name = str(name_or_path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give a positive number, or none for every problem")
    if name.startswith(reasoning.PREFIX):
        return reasoning.load(name, split, limit)
    if name in EMBEDDED:
        return _embedded(name, split, limit)
    if name in HUB:
        rows = _hub_rows(name, split)
    elif Path(name).suffix in SUFFIXES:
        rows = file_rows(Path(name))
    else:
        known = ", ".join(sorted((*EMBEDDED, *HUB)))
        raise ValueError(
            f"unknown data set {name!r}: give one of {known}, {reasoning.PREFIX}NAME, or a file ending in {', '.join(SUFFIXES)}"
        )
    problems = _problems(rows, limit, skip_bad, answered, name)
    if not problems:
        raise ValueError(f"{name} holds no problem")
    return problems


def generated(name: str) -> bool:
    """Whether a data set is made when it is asked for: it has the splits train, validation and test, as long as one likes."""
    return name in GENERATED or name.startswith(reasoning.PREFIX)


def _embedded(name: str, split: str, limit: int | None) -> list[Problem]:
    problems: list[Problem] = importlib.import_module(f"adaptive_jax.tasks.{name}").problems(split, limit)
    return problems


def _problems(rows: Rows, limit: int | None, skip_bad: bool, answered: bool, name: str) -> list[Problem]:
    problems: list[Problem] = []
    seen: set[str] = set()
    bad = 0
    lacking: Counter[tuple[str, str]] = Counter()
    for place, row in rows:
        try:
            if isinstance(row, MalformedRow):
                raise row
            problem = as_problem(row, answered=answered)
            if problem.id and problem.id in seen:
                raise MalformedRow(f"id {problem.id!r} is taken by an earlier row; give every row its own")
        except MissingPackage as fault:
            lacking[fault.package, fault.what] += 1
            if not skip_bad and len(problems) + lacking.total() == limit:
                break
            continue
        except MalformedRow as fault:
            if not skip_bad:
                raise ValueError(f"{place}: {fault} (--skip-bad leaves such rows out)") from None
            bad += 1
            continue
        if not problem.id:
            problem = replace(problem, id=free_id(question_id(problem.question), seen))
        seen.add(problem.id)
        problems.append(problem)
        if len(problems) == limit:
            break
    if lacking:
        packages = " and ".join(sorted({package for package, _ in lacking}))
        counts = ", ".join(f"{count} of {what}" for (_, what), count in lacking.items())
        lack = f"{lacking.total()} of the rows need {packages}, not installed: {counts}"
        if not skip_bad:
            raise ValueError(f"{name}: {lack}; install adaptive-jax[tasks] (--skip-bad leaves such rows out)")
        log.warning("%s: left out what needs a further package: %s; install adaptive-jax[tasks]", name, lack)
    if bad:
        log.warning("%s: left out %d malformed row%s", name, bad, "" if bad == 1 else "s")
    return problems


def free_id(stem: str, seen: set[str]) -> str:
    """`stem`, or for a question met before `stem-2`, `stem-3`, ..."""
    repeat, free = 1, stem
    while free in seen:
        repeat += 1
        free = f"{stem}-{repeat}"
    return free


# Rows of files and of the hub


def file_rows(path: Path) -> Rows:
    """The rows of a .jsonl, .json or .parquet file with their places; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return {".jsonl": jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}[path.suffix](path)


def jsonl_rows(path: Path) -> Rows:
    """The lines of a file of JSON objects with their places."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row: Row | MalformedRow
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as fault:
                row = MalformedRow(f"not UTF-8 at byte {fault.start} of the line; save the file as UTF-8")
            except (ValueError, RecursionError) as fault:
                row = MalformedRow(f"not JSON ({fault}); a .jsonl file holds one object a line")
            yield f"{path}, line {number}", row


def _json_rows(path: Path) -> Rows:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{path}: not JSON ({fault}); one object a line is a .jsonl file") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds one {type(rows).__name__}; a .json file of problems holds a list of objects")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _parquet_rows(path: Path) -> Rows:
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as fault:  # a damaged page is an OSError
        raise ValueError(f"{path}: not a readable parquet file ({fault})") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _hub_rows(name: str, split: str) -> Rows:
    hub_id, configuration, splits = HUB[name]
    if splits == ("train",) and split == "test":
        split = "train"  # a benchmark in one piece
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}, only {' and '.join(splits)}")
    from datasets import load_dataset

    options = {"streaming": True} if name in STREAMED else {}
    try:
        for number, row in enumerate(load_dataset(hub_id, configuration, split=split, **options), start=1):
            yield f"{name} ({hub_id}), {split} row {number}", row
    except Exception as fault:  # the library raises a dozen unrelated types when it is offline
        raise ConnectionError(
            f"could not load {name} ({hub_id}) from the Hugging Face hub or its cache: {fault}; connect, or give a "
            f"local file ending in {', '.join(SUFFIXES)}"
        ) from fault


# One row


def as_problem(row: Row, *, answered: bool = True) -> Problem:
    """The problem in one row of any known source; its id is empty where the row has none, and so is its answer, if it need
    not be `answered`.

    Raises:
      MalformedRow: the row is no object, a field is missing, empty or of the wrong type.
    """
    if not isinstance(row, Mapping):
        raise MalformedRow(f"a {type(row).__name__}, where an object such as {{'problem': ..., 'answer': ...}} belongs")
    fields = {field: value for field, value in row.items() if value is not None}  # a table's empty cells
    problem = _parsed(fields, answered)
    whole = {problem.id, problem.question, problem.answer}
    taken = {name for name in SOURCE if name in TESTS or str(fields.get(name)).strip() in whole}
    return replace(
        problem, metadata={name: value for name, value in fields.items() if name not in taken} | dict(problem.metadata)
    )


def _parsed(row: Row, answered: bool) -> Problem:
    identity = str(next((row[key] for key in ("id", "ID", "unique_id", "key") if key in row), ""))
    if "instruction_id_list" in row:
        return Problem(identity, _text(row, "prompt"), "", "instructions", metadata=read_instructions(row))
    if "tests" in row or "public_tests" in row:
        question = _text(row, "description", "problem", "question")
        try:
            time_limit(row)
        except ValueError as fault:
            raise MalformedRow(str(fault)) from None
        return Problem(identity or str(row.get("name", "")), question, "", "code", tests=_cases(row))
    if "Body" in row:
        body = _text(row, "Body")
        body += " " if body[-1] in ".,?!" else ", "
        return Problem(identity, body + _text(row, "Question"), _number(_answer(row, "Answer")))
    question = _text(row, "problem", "question")
    if not answered and not isinstance(row.get("answer"), str | int | float):
        return Problem(identity, question, "")
    if "answer" not in row and "solution" in row:
        return Problem(identity, question, _boxed(_text(row, "solution")))
    answer = _answer(row, "answer")
    if "####" in answer:
        final = answer.rpartition("####")[2].strip()
        if not final:
            raise MalformedRow("field 'answer' ends in '####' with nothing behind it; write '#### n'")
        return Problem(identity, question, final, hash_answer=True)
    return Problem(identity, question, answer)


def _text(row: Row, *fields: str) -> str:
    """The first of `fields` that the row has: a string that is not blank."""
    field = next((field for field in fields if field in row), None)
    if field is None:
        needed = " or ".join(repr(field) for field in fields)
        raise MalformedRow(f"no field {needed}; it has {', '.join(map(repr, row)) or 'none'}")
    value = row[field]
    if not isinstance(value, str):
        raise MalformedRow(f"field {field!r} is a {type(value).__name__}; write it as a string")
    if not value.strip():
        raise MalformedRow(f"field {field!r} is blank; fill it in or drop the row")
    return value.strip()


def _answer(row: Row, field: str) -> str:
    """An answer as text; numbers are welcome, and 5.0 is 5."""
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise MalformedRow(f"field {field!r} is {value}; give a finite number or a string")
        return str(int(value)) if value == value // 1 else str(value)
    return _text(row, field)


def _number(text: str) -> str:
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        raise MalformedRow(f"field 'Answer' is {text!r}; SVAMP answers are numbers")
    return text.removesuffix(".0")


def _boxed(solution: str) -> str:
    r"""MATH's final answer: `\boxed{5}`, or its older spellings `\boxed 5` and `\fbox{5}`."""
    answer = last_box(solution.replace(r"\fbox", r"\boxed"))
    bare = re.findall(r"\\boxed\s+([^\s${}]+)", solution)
    if not answer and not bare:
        raise MalformedRow(r"no field 'answer', and 'solution' has no \boxed{}; give the answer in a field of its own")
    return (answer or bare[-1]).strip()


def _cases(row: Row) -> tuple[Case, ...]:
    parts = TESTS[:1] if "tests" in row else TESTS[1:]
    tests = [test for part in parts for test in _tests(row, part)]
    if not any(test.output.strip() for test in tests):
        raise MalformedRow("no test expects any output, so a program that does nothing would pass; add a test")
    return tuple(tests)


def _tests(row: Row, field: str) -> list[Case]:
    part = row.get(field, [])
    try:
        if isinstance(part, Mapping):
            cases = [Case(*pair) for pair in zip(part["input"], part["output"], strict=True)]
        else:
            cases = [Case(test["input"], test["output"]) for test in part]
    except (TypeError, KeyError, ValueError):
        cases = None
    if cases is None or not all(isinstance(text, str) for case in cases for text in (case.input, case.output)):
        shapes = "[{'input': str, 'output': str}, ...] or {'input': [str, ...], 'output': [str, ...]}"
        raise MalformedRow(f"field {field!r} is not {shapes}")
    return cases
