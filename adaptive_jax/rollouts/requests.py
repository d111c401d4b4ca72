"""What a rollout is asked for: prompts from a file or a data set, each with its budget and, if it wants, its own settings.

A row of a --prompts file has

    prompt           the text to continue, as it is; or
    messages         [{"role": "user", "content": "..."}, ...], worded by the model's chat template
    id?              unique; by default a digest of the text
    budget?          token budget, instead of --budget
    temperature?, top_k?, top_p?, min_p?   sampling settings, instead of the policy

and any further fields, which a reward function finds in `problem.metadata`. A .txt file has a prompt on each line.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.prompt import Prompt, check_prompts
from adaptive_jax.environment import Cot, prompt, questions
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import encode
from adaptive_jax.tasks.loading import Rows, file_rows, free_id, jsonl_rows
from adaptive_jax.tasks.problem import MalformedRow, Problem

FIELDS = ("temperature", "top_k", "top_p", "min_p")
STANDARD_INPUT = "-"

Setting = tuple[float, int, float, float]


@dataclass(frozen=True)
class Request:
    """One prompt of a rollout.

    Attributes:
        id: what draws depend on, with the seed and the completion's index.
        text: to be continued, special tokens spelled out.
        tokens: of `text`.
        budget: token budget b.
        setting: in the order of `FIELDS`; None leaves it to the rollout's policy.
        problem: what is graded.
    """

    id: str
    text: str
    tokens: Int32[np.ndarray, " tokens"]
    budget: int
    setting: Setting | None
    problem: Problem

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.id, self.tokens.tolist(), self.budget)


def from_problems(lm: LM, problems: Sequence[Problem], cot: Cot, budget: int) -> list[Request]:
    """Problems as `adaptive_jax.prompt` asks them.

    Raises:
        ValueError: one of them does not fit the model's context with its budget.
    """
    asked = [(question, prompt(lm, question.problem, question.cot)) for question in questions(problems, cot)]
    return _checked(lm, [Request(q.id, text, _tokens(lm, text), budget, None, q.problem) for q, text in asked])


def from_file(lm: LM, file: str, budget: int, default: SamplingParams) -> list[Request]:
    """The rows of a file, or of standard input (lines of JSON) where it is "-".

    Args:
        lm: whose tokenizer and chat template are used.
        file: ends in .jsonl, .json, .parquet or .txt.
        budget: of rows that have none.
        default: settings that a row lacks which has others.

    Raises:
        ValueError: a row is malformed, or no row; the message has file, row and field.
        FileNotFoundError: no such file.
    """
    found: list[Request] = []
    seen: set[str] = set()
    for place, row in _rows(file):
        try:
            if isinstance(row, MalformedRow):
                raise row
            request = _request(lm, row, budget, default, seen)
        except ValueError as fault:
            raise ValueError(f"{place}: {fault}") from None
        seen.add(request.id)
        found.append(request)
    if not found:
        raise ValueError(f"--prompts {file} holds no prompt")
    return _checked(lm, found)


def _checked(lm: LM, requests: list[Request]) -> list[Request]:
    for request in requests:
        check_prompts([request.prompt], lm.config.max_positions)
    return requests


def _rows(file: str) -> Rows:
    if file == STANDARD_INPUT:
        return jsonl_rows(Path("/dev/stdin"))
    path = Path(file)
    if path.suffix == ".txt":
        return _lines(path)
    if path.suffix in (".jsonl", ".json", ".parquet"):
        return file_rows(path)
    raise ValueError(f"--prompts {file}: give a file that ends in .jsonl, .json, .parquet or .txt, or - for standard input")


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}, line {number}", {"prompt": line.rstrip("\r\n")}


def _request(lm: LM, row: Any, budget: int, default: SamplingParams, seen: set[str]) -> Request:
    if not isinstance(row, Mapping):
        raise MalformedRow(f"a {type(row).__name__}, where an object such as {{'prompt': ...}} belongs")
    row = {field: value for field, value in row.items() if value is not None}  # a table's empty cells
    if ("prompt" in row) == ("messages" in row):
        raise MalformedRow(f"give one of the fields 'prompt' and 'messages'; it has {', '.join(map(repr, row)) or 'none'}")
    text = row["prompt"] if "prompt" in row else _worded(lm, row["messages"])
    if not isinstance(text, str) or not text:
        raise MalformedRow("field 'prompt' must be a text that is not empty")
    if "id" in row:
        identity = str(row["id"])
        if identity in seen:
            raise MalformedRow(f"id {identity!r} is taken by an earlier row; give every row its own")
    else:
        identity = free_id(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16], seen)
    own = row.get("budget", budget)
    if type(own) is not int or own < 1:
        raise MalformedRow(f"field 'budget' is {own!r}; give a number of tokens from 1")
    setting = None
    if any(name in row for name in FIELDS):
        values = {name: row.get(name, getattr(default, name)) for name in FIELDS}
        if fault := [name for name, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
            raise MalformedRow(f"field {fault[0]!r} is {values[fault[0]]!r}; give a number")
        SamplingParams(**values)  # which checks their ranges
        setting = (float(values["temperature"]), int(values["top_k"]), float(values["top_p"]), float(values["min_p"]))
    rest = {name: value for name, value in row.items() if name not in ("id", "prompt", "messages", "budget", *FIELDS)}
    return Request(identity, text, _tokens(lm, text), own, setting, Problem(identity, text, metadata=rest))


def _worded(lm: LM, messages: Any) -> str:
    shaped = isinstance(messages, Sequence) and all(
        isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    )
    if not shaped or not messages:
        raise MalformedRow("field 'messages' must be a list of objects such as {'role': 'user', 'content': '...'}")
    if getattr(lm.tokenizer, "chat_template", None) is None:
        raise MalformedRow("the model has no chat template for the field 'messages': give 'prompt'")
    try:
        return lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program: anything may go wrong in it
        raise MalformedRow(f"the chat template fails on field 'messages': {type(error).__name__}: {error}") from error


def _tokens(lm: LM, text: str) -> Int32[np.ndarray, " tokens"]:
    return np.asarray(encode(lm.tokenizer, text, lm.config.vocab_size), np.int32)
