"""Trained adapters on disk: parameters by orbax, everything else that makes the policy in a small JSON file."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.policies.token import TokenAdapter, token_adapter

DESCRIPTION = "adapter.json"
MAIN = "token-adapter-budget"


def save_adapter(directory: Path, adapter: TokenAdapter) -> None:
    """Write an adapter to a new directory."""
    actions = {name: np.asarray(value).tolist() for name, value in vars(adapter.actions).items()}
    description = {
        "kind": "token",
        "inputs": adapter.inputs,
        "width": nnx.merge(adapter.graphdef, adapter.params).width,
        "budget_scale": adapter.budget_scale,
        "hidden_size": adapter.hidden_size,
        "actions": actions,
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.absolute() / "params", nnx.to_pure_dict(adapter.params))
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_adapter(path: str | Path, *, method: str = MAIN, seed: int | None = None) -> TokenAdapter:
    """The adapter of a run, ready to be a `policy`.

    Args:
        path: a run directory, or the directory of one adapter in it.
        method: which of the run's adapters.
        seed: which training seed; the first by default.

    Raises:
        FileNotFoundError: there is no such adapter; the message lists those that there are.
    """
    directory = Path(path)
    if not (directory / DESCRIPTION).is_file():
        found = sorted(file.parent.name for file in directory.glob(f"adapters/*/{DESCRIPTION}"))
        seeds = {int(match[1]): name for name in found if (match := re.fullmatch(rf"{re.escape(method)}-seed(\d+)", name))}
        if not seeds or seed not in (None, *seeds):
            which = f"method {method!r}" + ("" if seed is None else f" and seed {seed}")
            raise FileNotFoundError(f"no adapter for {which} in {directory}; it has: {', '.join(found) or 'none'}")
        directory = directory / "adapters" / seeds[min(seeds) if seed is None else seed]
    description: dict[str, Any] = json.loads((directory / DESCRIPTION).read_text())
    actions = SamplingParams(**{name: np.asarray(value) for name, value in description["actions"].items()})
    adapter = token_adapter(
        description["hidden_size"],
        inputs=description["inputs"],
        actions=actions.broadcast(len(actions)),
        width=description["width"],
        budget_scale=description["budget_scale"],
    )
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.to_pure_dict(adapter.params))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(directory.absolute() / "params", shapes)
    nnx.replace_by_pure_dict(adapter.params, restored)
    return adapter
