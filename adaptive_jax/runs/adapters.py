"""Trained adapters on disk: their parameters and everything else that makes the policy, in the portable form.

Earlier versions wrote records instead (`adaptive_jax.runs.records`); these are read as ever.
"""

import dataclasses
import functools
import json
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from flax import nnx

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.lm.model import LM
from adaptive_jax.policies.sequence import Pooling, SequenceAdapter, sequence_adapter
from adaptive_jax.policies.token import BudgetEncoding, Inputs, TokenAdapter, token_adapter
from adaptive_jax.runs.fingerprint import FingerprintMismatch, check_fingerprint, model_fingerprint
from adaptive_jax.runs.hub import download_adapter, is_hub_id
from adaptive_jax.runs.portable import CONFIG, WEIGHTS, DamagedRecord, read_portable, write_portable
from adaptive_jax.runs.records import (
    MANIFEST,
    check_name,
    check_record,
    described,
    files_in,
    leaves_by_name,
    named_leaves,
    read_record,
    replace_leaves,
    replacing,
)

EARLIER: dict[str, Any] = {"budget_encoding": "shares", "held": []}  # what adapters are that were saved before the field was
ADAPTERS = "adapters"
MAIN = "token-adapter-budget"

ROW = ("metric", "cot", "budget", "value", "ci95", "n")  # what a row of results has at least

Adapter = TokenAdapter | SequenceAdapter

_COUNT = range(1, 2**31)
_LEAF = ".value"  # how flax ends the names of parameters, which portable files leave out

# what makes an adapter besides its parameters, its actions and the width of its MLP, and the values that it may have
_FIELDS: dict[str, dict[str, Sequence[Any]]] = {
    "token": {
        "hidden_size": _COUNT,
        "inputs": get_args(Inputs),
        "budget_scale": _COUNT,
        "budget_encoding": get_args(BudgetEncoding),
    },
    "sequence": {
        "hidden_size": _COUNT,
        "pooling": get_args(Pooling),
        "sees_samples": (False, True),
        "samples_scale": _COUNT,
    },
}


def save_adapter(
    directory: str | Path,
    adapter: Adapter,
    lm: LM | None = None,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    results: Sequence[Mapping[str, Any]] = (),
    license: str | None = None,
) -> None:
    """Write an adapter, with its name, in place of the one that may be there: adapter.safetensors and adapter_config.json.

    The config holds the adapter's kind, name and fields, the width of its MLP, its actions, the base model's name if it is
    known, and the fingerprint.

    Args:
        directory: where to; made if missing.
        adapter: a token or sequence adapter.
        lm: the model that it was trained with, which `load_adapter` then checks.
        fingerprint: of the run that trained it; holds the model's.
        trained: how and on what it was trained, for whoever gets the adapter; JSON, such as {"dataset": "gsm8k"}.
        results: rows with "metric", "cot", "budget", "value", "ci95" and "n", such as a run's results.json has; the model card
            of an export shows them.
        license: of the adapter, an identifier of the hub, such as "apache-2.0".

    Raises:
        ValueError: a row of the results lacks a field, or something that is told cannot be written as JSON.
        NotWritten: it cannot be written.
    """
    for number, row in enumerate(results):
        if missing := [field for field in ROW if field not in row]:
            raise ValueError(f"row {number} of results has no {missing[0]!r}; a row has {', '.join(ROW)}")
    kind = "sequence" if isinstance(adapter, SequenceAdapter) else "token"
    held = {"held": list(adapter.held)} if isinstance(adapter, SequenceAdapter) else {}
    told = _plain({"license": license, "trained": dict(trained or {}), "results": [dict(row) for row in results]})
    description = {
        "kind": kind,
        "name": Path(directory).name,
        **({"base_model": lm.name} if lm is not None else {}),
        **{field: getattr(adapter, field) for field in _FIELDS[kind]},
        **held,
        "width": nnx.merge(adapter.graphdef, adapter.params).width,
        "actions": {name: np.asarray(value).tolist() for name, value in vars(adapter.actions).items()},
        "fingerprint": dict(fingerprint or (model_fingerprint(lm) if lm is not None else {})),
        **{field: value for field, value in told.items() if value},
    }
    arrays = {name.removesuffix(_LEAF): array for name, array in named_leaves(adapter.params).items()}
    with replacing(Path(directory)) as partial:
        write_portable(partial, arrays, description)


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: numbers of NumPy are numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        raise ValueError(f"an adapter's training and results are JSON, which has no {type(value).__name__}: {value!r}")

    return dict(json.loads(json.dumps(told, default=plain)))


def load_adapter(
    path: str | Path,
    *,
    method: str = MAIN,
    seed: int | None = None,
    lm: LM | None = None,
    allow_changed: Collection[str] = (),
    revision: str | None = None,
) -> Adapter:
    """An adapter, ready to be a `policy`, once its files have been found to be what was written.

    Args:
        path: a run directory, the directory of one adapter, or "user/name" of the Hugging Face hub, if no directory is there.
        method: which of the run's adapters; the token adapter with budget, or such as "sequence-adapter-budget-all".
        seed: which training seed; the first by default.
        lm: the model that it is to be used with, to be checked against the one that it was trained with.
        allow_changed: "weights" or "tokenizer", where that may differ.
        revision: a branch, a tag or a commit of the hub's repository; the newest of its main branch by default.

    Raises:
        FileNotFoundError: there is no such adapter; the message lists those that there are, or says why the hub gave none.
        DamagedRecord, NewerRecord: see `check_adapter`.
        FingerprintMismatch: it was trained with another model. One of another hidden size is never allowed.
    """
    directory = find_adapter(path, method=method, seed=seed, revision=revision)
    description, make, arrays = _checked(directory)
    if lm is not None:
        if (width := description["hidden_size"]) != lm.config.hidden_size:
            base = repr(description["base_model"]) if "base_model" in description else "the model that it was trained with"
            raise FingerprintMismatch(
                f"the adapter in {directory} belongs to a model of hidden size {width}, and {lm.name!r} has "
                f"{lm.config.hidden_size}: load {base}"
            )
        present = model_fingerprint(lm)
        recorded = {field: description["fingerprint"].get(field) for field in present}
        of = f", which belongs to the model {name!r}," if (name := description.get("base_model")) else ""
        check_fingerprint(f"the adapter in {directory}{of}", recorded, present, allow_changed)
    parameters = arrays()
    if unsound := [name for name, array in parameters.items() if not np.isfinite(array).all()]:
        raise DamagedRecord(f"{directory}: {unsound[0]} holds values that are not finite: train the adapter again")
    adapter = make()
    names = leaves_by_name(adapter.params)
    return dataclasses.replace(
        adapter, params=replace_leaves(adapter.params, {name: parameters[name.removesuffix(_LEAF)] for name in names})
    )


def find_adapter(path: str | Path, *, method: str = MAIN, seed: int | None = None, revision: str | None = None) -> Path:
    """The directory of an adapter, for the arguments of `load_adapter`; raises its FileNotFoundError."""
    directory = Path(path).expanduser()
    if not directory.exists() and is_hub_id(directory.as_posix()):
        return download_adapter(directory.as_posix(), revision)
    if not _is_adapter(directory):
        found = sorted(place.name for place in directory.glob(f"{ADAPTERS}/[!.]*") if _is_adapter(place))
        seeds = {int(match[1]): name for name in found if (match := re.fullmatch(rf"{re.escape(method)}-seed(\d+)", name))}
        if not seeds or seed not in (None, *seeds):
            which = f"method {method!r}" + ("" if seed is None else f" and seed {seed}")
            there = f"it has: {', '.join(found) or 'none'}" if directory.is_dir() else "there is no such directory"
            raise FileNotFoundError(f"no adapter for {which} in {directory}; {there}")
        return directory / ADAPTERS / seeds[min(seeds) if seed is None else seed]
    return directory


def check_adapter(directory: Path) -> dict[str, Any]:
    """What an adapter is, once its files have been found to be what was written, and in a run under the name they had there.

    An adapter that was copied out of a run may have any name, and other files beside it, such as a model card.

    Raises:
        DamagedRecord: a file of it is not what was written, a field of its config cannot be, or it was exchanged with another
            of its run.
        NewerRecord: a newer version wrote it.
    """
    return _checked(directory)[0]


def _checked(directory: Path) -> tuple[dict[str, Any], Callable[[], Adapter], Callable[[], dict[str, np.ndarray]]]:
    """`check_adapter`, what makes such an adapter untrained, and what gives its arrays by their portable names."""
    read: Callable[[], dict[str, np.ndarray]]
    if (directory / MANIFEST).is_file():  # of an earlier version
        file, manifest = directory / MANIFEST, check_record(directory)
        description, found, own = manifest["facts"], manifest["arrays"], set(files_in(directory))

        def read() -> dict[str, np.ndarray]:
            return {name.removesuffix(_LEAF): array for name, array in read_record(directory).arrays.items()}

    else:
        file, own = directory / CONFIG, {CONFIG, WEIGHTS}
        description, arrays = read_portable(directory)
        found = described(arrays)

        def read() -> dict[str, np.ndarray]:
            return arrays

    make = _maker(file, description)
    params = jax.eval_shape(lambda: make().params)  # no array is made, however large it would be
    if {name.removesuffix(_LEAF): shape for name, shape in described(leaves_by_name(params)).items()} != {
        name.removesuffix(_LEAF): shape for name, shape in found.items()
    }:
        raise DamagedRecord(f"{file}: the 'arrays' beside it are not those of an adapter such as it tells of")
    place = directory.resolve()
    if place.parent.name == ADAPTERS:
        check_name(place, description.get("name"))
        if foreign := sorted(set(files_in(directory)) - own):
            raise DamagedRecord(f"{directory / foreign[0]} is no part of this adapter")
    return description, make, read


def _is_adapter(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (CONFIG, MANIFEST))


def _maker(file: Path, description: Mapping[str, Any]) -> Callable[[], Adapter]:
    """Makes an untrained adapter as it is described; raises DamagedRecord, naming the field, where there can be none."""
    description = EARLIER | dict(description)

    def check(field: str, allowed: Sequence[Any]) -> None:
        value = description.get(field)
        if type(value) is not type(allowed[0]) or value not in allowed:
            wanted = f"from 1 to {_COUNT[-1]}" if allowed is _COUNT else f"one of {', '.join(map(str, allowed))}"
            raise DamagedRecord(f"{file}: {field!r} is {reprlib.repr(value)}, and must be {wanted}")

    check("kind", [*_FIELDS])
    fields = {**_FIELDS[description["kind"]], "width": _COUNT}
    for field, allowed in fields.items():
        check(field, allowed)
    if type(description.get("fingerprint")) is not dict:
        raise DamagedRecord(f"{file}: 'fingerprint' is none")
    try:
        actions = SamplingParams(**{name: np.asarray(value) for name, value in description["actions"].items()})
        actions = actions.broadcast(len(actions))
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise DamagedRecord(f"{file}: 'actions' are none: {error}") from error
    if not len(actions):
        raise DamagedRecord(f"{file}: 'actions' are none")
    chosen = {"actions": actions, **{field: description[field] for field in fields}}
    if description["kind"] == "token":
        return functools.partial(token_adapter, **chosen)
    held = description["held"]
    if type(held) is not list or not all(type(action) is int and -1 <= action < len(actions) for action in held):
        raise DamagedRecord(f"{file}: 'held' is {reprlib.repr(held)}, and must be a list of actions, or of -1 for none")
    if held and len(held) != description["samples_scale"]:
        raise DamagedRecord(f"{file}: 'held' has {len(held)} entries, and 'samples_scale' is {description['samples_scale']}")
    return functools.partial(sequence_adapter, held=held, **chosen)
