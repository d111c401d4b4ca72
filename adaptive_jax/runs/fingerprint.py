"""What decides a run's numbers, as names and short values: whoever goes on with a run must have the same."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adaptive_jax.digest import tree_digest
from adaptive_jax.lm.model import LM
from adaptive_jax.parallel import exchange
from adaptive_jax.tasks.problem import Problem

Fingerprint = dict[str, Any]

PACKAGE = Path(__file__).parents[1]
DIGITS = 16  # of a SHA-256, enough to tell any two apart by eye and by chance


class FingerprintMismatch(ValueError):
    """A run, a checkpoint or an adapter was made with something else; the message says with what."""


def model_fingerprint(lm: LM) -> Fingerprint:
    """The frozen model: dtype and digest of its weights, digest of its tokenizer with template and stop tokens.

    And whether a longrope model was loaded for long texts, which changes what it computes for all.
    """
    tokenizer = lm.tokenizer
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    speech = json.dumps([words, tokenizer.chat_template, lm.stop_ids])
    dtypes = sorted({leaf.dtype.name for leaf in jax.tree.leaves(lm.params)})
    loaded = {"weights": f"{'/'.join(dtypes)} {tree_digest(lm.params)[:DIGITS]}", "tokenizer": _digest(speech)}
    return loaded | ({"rope": "for long texts"} if lm.config.rope.long else {})


def problems_fingerprint(problems: Sequence[Problem]) -> str:
    """Number and digest of problems: their texts, answers and order."""
    texts = json.dumps([dataclasses.astuple(problem) for problem in problems], default=str)  # a Parquet file has dates
    return f"{len(problems)} problems {_digest(texts)}"


def code_fingerprint(*packages: Path) -> Fingerprint:
    """This package's version and sources, those of further `packages`, and what else computes: jax, numpy, the device.

    Sources rather than a commit: an installed package has none, and a commit says nothing of edited files.
    """
    sources = hashlib.sha256()
    for package in (PACKAGE, *packages):
        for file in sorted(package.rglob("*.py")):
            sources.update(f"{package.name}/{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    version = importlib.metadata.version
    return {
        "code": f"{version('adaptive-jax')} {sources.hexdigest()[:DIGITS]}",
        "jax": f"{version('jax')}, jaxlib {version('jaxlib')}",
        "numpy": version("numpy"),
        "device": jax.devices()[0].device_kind,
    }


def check_fingerprint(what: str, recorded: Mapping[str, Any], present: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Raises FingerprintMismatch where `what` was recorded with another value of a field that is not `allowed` to differ.

    Args:
        what: names the run or adapter.
        recorded, present: fingerprints.
        allowed: fields that --allow-changed names.
    """
    fields = list(dict.fromkeys((*recorded, *present)))
    if unknown := [field for field in allowed if field not in fields]:
        raise FingerprintMismatch(f"--allow-changed {' '.join(unknown)}: no such field; there are {', '.join(fields)}")
    differ = {field: told for field, told in differences(recorded, present).items() if field not in allowed}
    if differ:
        values = "; ".join(differ.values())
        raise FingerprintMismatch(f"{what} was made with something else: {values}. --allow-changed {' '.join(differ)} goes on")


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which two fingerprints differ, with words that tell how."""
    fields = [field for field in dict.fromkeys((*recorded, *present)) if _shown(recorded, field) != _shown(present, field)]
    return {field: f"{field} was {_shown(recorded, field)} and is {_shown(present, field)}" for field in fields}


def check_processes(present: Fingerprint) -> None:
    """Raises FingerprintMismatch, in all of a run's processes, where one was started with something else than the others.

    They would ask other questions or draw other tokens, or wait for each other for ever.
    """
    everyones = exchange({"fingerprint": np.frombuffer(json.dumps(present).encode(), np.uint8)})
    first, *others = (json.loads(theirs["fingerprint"].tobytes()) for theirs in everyones)
    for number, theirs in enumerate(others, 1):
        if differ := [field for field in dict.fromkeys((*first, *theirs)) if _shown(first, field) != _shown(theirs, field)]:
            values = "; ".join(f"{field} {_shown(theirs, field)} instead of {_shown(first, field)}" for field in differ)
            raise FingerprintMismatch(
                f"process {number} was started with something else than process 0: {values}. Give all processes the same "
                "command, code and files"
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def _shown(fingerprint: Mapping[str, Any], field: str) -> str:
    return json.dumps(fingerprint[field]) if field in fingerprint else "absent"
