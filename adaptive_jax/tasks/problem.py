"""What a task is: a question, what counts as its answer, and the verdicts a grader may give."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

Kind = Literal["integer", "math", "code", "instructions", "reasoning_gym"]
Verdict = Literal["correct", "wrong", "unparseable", "timeout", "error"]
LONGEST_LIMIT = 3600  # seconds for a test
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Grade(NamedTuple):
    """A verdict on a completion, and its reward: a number in [0, 1] that means nothing where the verdict is "error"."""

    verdict: Verdict
    value: float


class MalformedRow(ValueError):
    """A row that is no problem; the message names the field and the mend."""


class MissingPackage(MalformedRow):
    """A row that needs a package of the extra `tasks`, which is not installed.

    Attributes:
      what: what needs it.
      package: its name on PyPI.
    """

    def __init__(self, what: str, package: str):
        super().__init__(f"{what} needs the package {package}; install adaptive-jax[tasks]")
        self.what, self.package = what, package


@dataclass(frozen=True)
class Case:
    """One test of a program: what it reads on stdin and what it must write to stdout."""

    input: str
    output: str


@dataclass(frozen=True)
class Problem:
    r"""One question with a verifiable answer.

    Attributes:
      id: unique within its file; the randomness of a completion depends on it.
      question: the text a prompt is made of.
      answer: the gold answer, without `\boxed{}`; empty for programs and texts.
      kind: `math` answers are compared as mathematics; `integer` answers are plain integers, compared in
        process and never by a computer algebra system; `code` answers are programs, judged by `tests`;
        `instructions` answers are texts, judged by the instructions in `metadata` (`ifeval`); `reasoning_gym`
        answers are judged by their generator (`reasoning`).
      hash_answer: a final `#### n` counts where there is no `\boxed{}` (the GSM8K convention).
      tests: what a program must satisfy, every one of them; empty for the other kinds.
      metadata: every further field of the row that the problem came from, and an answer field of which only a part is `answer`;
        two problems that differ in it alone are equal. Of a program's, `time_limit` counts (`time_limit`).
    """

    id: str
    question: str
    answer: str = ""
    kind: Kind = "math"
    hash_answer: bool = False
    tests: tuple[Case, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)


def time_limit(metadata: Mapping[str, Any]) -> float | None:
    """The seconds that a problem gives each test, of its row's field `time_limit`; None where it has none.

    Raises:
      ValueError: the field is neither a positive number nor, as CodeContests has it, {"seconds": 2, "nanos": 500000000}.
    """
    value = metadata.get("time_limit")
    if value is None:
        return None
    parts = [value.get("seconds") or 0, value.get("nanos") or 0] if isinstance(value, Mapping) else [value, 0]
    if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
        parts = [0, 0]
    seconds = parts[0] + parts[1] / 1e9
    if not 0 < seconds <= LONGEST_LIMIT:
        raise ValueError(
            f"field 'time_limit' is {value!r}; give seconds above 0 and up to {LONGEST_LIMIT}, as a number or as "
            "{'seconds': int, 'nanos': int}"
        )
    return seconds


def normalise_question(text: str) -> str:
    """The text up to Unicode compatibility forms, letter case and white space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def question_id(text: str) -> str:
    """A stable id for a question that has none: 16 hexadecimal digits of its normalised text's SHA-256."""
    return hashlib.sha256(normalise_question(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shared(left: Sequence[Problem], right: Iterable[Problem]) -> list[Problem]:
    """The problems of `left` whose normalised question also stands in `right`: empty for a sound train/test pair."""
    seen = {normalise_question(problem.question) for problem in right}
    return [problem for problem in left if normalise_question(problem.question) in seen]
