"""Writes a directory that transformers decodes with: the adapter, the code that applies it, and a model card.

adapter.safetensors, adapter_config.json   the portable adapter; with what is known of its training and results
custom_generate/generate.py                `template/generate.py`
custom_generate/adapter.py                 the same adapter as Python: transformers copies code into a cache of its own,
                                           from where no other file of this directory can be found
README.md                                  a model card
"""

import base64
import json
import pprint
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_jax.export.card import check_license, model_card
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.runs.adapters import ADAPTERS, MAIN, check_adapter, find_adapter, load_adapter, save_adapter
from adaptive_jax.runs.fingerprint import model_fingerprint
from adaptive_jax.runs.portable import WEIGHTS, read_portable, write_portable
from adaptive_jax.runs.records import replacing

TEMPLATE = Path(__file__).parent / "template"
PROBE_TOKENS = 8
LICENSE = "apache-2.0"
RESULTS = "results.json"
OF_THIS_MACHINE = {"run_dir", "resume", "allow_changed"}  # fields of a run's config that tell others nothing


def export_transformers(
    source: str | Path,
    out: Path,
    *,
    method: str = MAIN,
    seed: int | None = None,
    model: str | LM | None = None,
    allow_changed: Collection[str] = (),
    license: str | None = None,
    repository: str | None = None,
) -> None:
    """Write what `model.generate(..., custom_generate=out, trust_remote_code=True)` takes.

    Args:
        source: a run directory, the directory of one adapter, or a hub id, as for `load_adapter`.
        out: where to; takes the place of an earlier export.
        method, seed: which of the run's adapters, as for `load_adapter`.
        model: the base model, or its name for `load_lm`; by default what the adapter or its run names.
        allow_changed: as for `load_adapter`.
        license: of the adapter, an identifier of the hub, such as "mit"; by default what the adapter has, or Apache 2.0.
        repository: hub id under which the model card says to use it; the directory's name by default.

    Raises:
        FileNotFoundError: there is no such adapter or model.
        ValueError: the base model is not named anywhere, `license` is no identifier, or `out` holds something else than an
            export.
        DamagedRecord, NewerRecord, FingerprintMismatch: see `load_adapter`.
        NotWritten: the disk is full, or the directory cannot be written.
    """
    if out.exists() and not (out / "custom_generate").is_dir() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} holds something else than an export: give --out a new directory")
    if license is not None:
        check_license(license)
    place = find_adapter(source, method=method, seed=seed)
    about = _about(place)
    lm = model if isinstance(model, LM) else _base_model(model, model or about["base_model"] or about["model"], place)
    adapter = load_adapter(place, lm=lm, allow_changed=allow_changed)
    with replacing(out) as partial:
        save_adapter(partial / "adapter", adapter, lm, fingerprint=about["fingerprint"] | model_fingerprint(lm))
        description, arrays = read_portable(partial / "adapter")
        shutil.rmtree(partial / "adapter")
        description |= {
            "name": place.name if place.resolve().parent.name == ADAPTERS else about["name"] or place.name,
            "license": license or about["license"] or LICENSE,
            "trained": about["trained"],
            "results": about["results"],
        }
        write_portable(partial, arrays, description)
        code = partial / "custom_generate"
        code.mkdir()
        shutil.copy(TEMPLATE / "generate.py", code)
        (code / "adapter.py").write_text(_as_python(description, (partial / WEIGHTS).read_bytes(), lm))
        (partial / "README.md").write_text(model_card(description, repository or out.resolve().name))


def _about(place: Path) -> dict[str, Any]:
    """What is known of an adapter besides itself: by its run where it lies in one, otherwise by its own config."""
    about: dict[str, Any] = {"name": None, "base_model": None, "license": None, "trained": {}, "results": [], "model": None}
    about |= check_adapter(place)
    run = place.resolve().parents[1]
    if place.resolve().parent.name == ADAPTERS and (run / "config.json").is_file():
        config = _json(run / "config.json")
        about["model"] = config.get("model")
        about["trained"] = {name: _public(value) for name, value in config.items() if name not in OF_THIS_MACHINE}
        if (run / RESULTS).is_file():
            results = _json(run / RESULTS)
            about["trained"] |= {"experiment": results.get("experiment")}
            about["results"] = _rows(run / RESULTS, results, place.name)
    return about


def _base_model(given: str | None, name: Any, place: Path) -> LM:
    if not isinstance(name, str):
        raise ValueError(f"{place} does not say with which model it was trained: give --model")
    try:
        return load_lm(name)
    except FileNotFoundError as error:
        if given is not None:
            raise
        raise FileNotFoundError(f"{error}. {place} was trained with it: say by --model where it is") from error


def _public(value: Any) -> Any:
    """A path without the directories of whoever trained: exports are read by others."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _rows(file: Path, results: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a run's results that are the adapter's; adapters are named by method and, where there are several, CoT."""
    mine = name.rpartition("-seed")[0] or name

    def is_mine(row: Mapping[str, Any]) -> bool:
        method = re.sub(r"[^a-z0-9]+", "-", row["method"].lower())
        return mine in (method, f"{method}-{row['cot']}")

    try:
        return [row for row in results["rows"] if is_mine(row)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} has no such rows as results have: {error!r}") from error


def _as_python(description: Mapping[str, Any], weights: bytes, lm: LM) -> str:
    """The module `adapter` that the template imports."""
    tokens = np.arange(PROBE_TOKENS, dtype=np.int32)[None]
    hidden = np.asarray(lm(tokens, np.ones_like(tokens, bool))[1])[0, -1]
    adapter = {key: value for key, value in description.items() if key not in ("trained", "results", "fingerprint")}
    values = {
        "ADAPTER": adapter,
        "BASE_MODEL": lm.name,
        "VOCAB_SIZE": lm.config.vocab_size,
        "UNUSED_IDS": [] if lm.tokens is None else np.flatnonzero(~np.asarray(lm.tokens)).tolist(),
        "PROBE": {"tokens": PROBE_TOKENS, "hidden": [float(f"{value:.6g}") for value in hidden]},
        "WEIGHTS": base64.b64encode(weights).decode(),
    }
    lines = [f"{name} = {pprint.pformat(value, width=120, compact=True, sort_dicts=False)}\n" for name, value in values.items()]
    return '"""The adapter, for generate.py; WEIGHTS is adapter.safetensors in base64."""\n\n' + "".join(lines)
