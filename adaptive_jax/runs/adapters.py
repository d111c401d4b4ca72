"""Trained adapters on disk: a record of their parameters and of everything else that makes the policy."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.lm.model import LM
from adaptive_jax.policies.sequence import SequenceAdapter, sequence_adapter
from adaptive_jax.policies.token import BUDGET_WEIGHT, TokenAdapter, token_adapter
from adaptive_jax.runs.fingerprint import FingerprintMismatch, check_fingerprint, model_fingerprint
from adaptive_jax.runs.records import MANIFEST, named_leaves, read_record, replace_leaves, write_record

ADAPTERS = "adapters"
MAIN = "token-adapter-budget"

Adapter = TokenAdapter | SequenceAdapter

# what makes an adapter besides its parameters, its actions and the width of its MLP
_FIELDS: dict[str, tuple[str, ...]] = {
    "token": ("hidden_size", "inputs", "budget_scale"),
    "sequence": ("hidden_size", "pooling", "sees_samples", "samples_scale"),
}


def save_adapter(directory: Path, adapter: Adapter, fingerprint: Mapping[str, Any] | None = None) -> None:
    """Write an adapter, with the fingerprint of the run that trained it; in place of the one that may be there.

    Raises:
        NotWritten: it cannot be written.
    """
    kind = "sequence" if isinstance(adapter, SequenceAdapter) else "token"
    description = {
        "kind": kind,
        **{field: getattr(adapter, field) for field in _FIELDS[kind]},
        "width": nnx.merge(adapter.graphdef, adapter.params).width,
        "actions": {name: np.asarray(value).tolist() for name, value in vars(adapter.actions).items()},
        "fingerprint": dict(fingerprint or {}),
    } | ({"budget_weight": BUDGET_WEIGHT} if kind == "token" else {})
    write_record(directory, named_leaves(adapter.params), description)


def load_adapter(
    path: str | Path,
    *,
    method: str = MAIN,
    seed: int | None = None,
    lm: LM | None = None,
    allow_changed: Collection[str] = (),
) -> Adapter:
    """The adapter of a run, ready to be a `policy`, once its files have been found to be what was written.

    Args:
        path: a run directory, or the directory of one adapter in it.
        method: which of the run's adapters; the token adapter with budget, or such as "sequence-adapter-budget-all".
        seed: which training seed; the first by default.
        lm: the model that it is to be used with, to be checked against the one that it was trained with.
        allow_changed: "weights" or "tokenizer", where that may differ.

    Raises:
        FileNotFoundError: there is no such adapter; the message lists those that there are.
        DamagedRecord, NewerRecord: a file of it is not what was written, or a newer version wrote it.
        FingerprintMismatch: it was trained with another model, or by a version that encoded the token budget differently.
    """
    directory = Path(path)
    if not (directory / MANIFEST).is_file():
        found = sorted(file.parent.name for file in directory.glob(f"{ADAPTERS}/[!.]*/{MANIFEST}"))
        seeds = {int(match[1]): name for name in found if (match := re.fullmatch(rf"{re.escape(method)}-seed(\d+)", name))}
        if not seeds or seed not in (None, *seeds):
            which = f"method {method!r}" + ("" if seed is None else f" and seed {seed}")
            raise FileNotFoundError(f"no adapter for {which} in {directory}; it has: {', '.join(found) or 'none'}")
        directory = directory / ADAPTERS / seeds[min(seeds) if seed is None else seed]
    record = read_record(directory)
    description = record.facts
    if description["kind"] == "token" and description.get("budget_weight") != BUDGET_WEIGHT:
        raise FingerprintMismatch(
            f"the adapter in {directory} was trained with another encoding of the token budget (its {MANIFEST} has "
            f"budget_weight {description.get('budget_weight', 'none')}, and here it is {BUDGET_WEIGHT:g}): train it again"
        )
    if lm is not None:
        present = model_fingerprint(lm)
        recorded = {field: description["fingerprint"].get(field) for field in present}
        check_fingerprint(f"the adapter in {directory}", recorded, present, allow_changed)
    actions = SamplingParams(**{name: np.asarray(value) for name, value in description["actions"].items()})
    make: Callable[..., Adapter] = sequence_adapter if description["kind"] == "sequence" else token_adapter
    own = {field: description[field] for field in (*_FIELDS[description["kind"]], "width")}
    adapter = make(actions=actions.broadcast(len(actions)), **own)
    return dataclasses.replace(adapter, params=replace_leaves(adapter.params, record.arrays))
