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

from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.runs.adapters import MAIN, find_adapter, load_adapter, save_adapter
from adaptive_jax.runs.portable import CONFIG, WEIGHTS, read_portable, write_portable
from adaptive_jax.runs.records import replacing

TEMPLATE = Path(__file__).parent / "template"
PROBE_TOKENS = 8
LICENSE = "apache-2.0"


def export_transformers(
    source: Path,
    out: Path,
    *,
    method: str = MAIN,
    seed: int | None = None,
    model: str | None = None,
    allow_changed: Collection[str] = (),
) -> None:
    """Write what `model.generate(..., custom_generate=out, trust_remote_code=True)` takes.

    Args:
        source: a run directory, or the directory of one adapter.
        out: where to; takes the place of an earlier export.
        method, seed: which of the run's adapters, as for `load_adapter`.
        model: the base model, for `load_lm`; by default what the adapter or its run names.
        allow_changed: as for `load_adapter`.

    Raises:
        FileNotFoundError: there is no such adapter or model.
        ValueError: the base model is not named anywhere, or `out` holds something else than an export.
        DamagedRecord, NewerRecord, FingerprintMismatch: see `load_adapter`.
        NotWritten: the disk is full, or the directory cannot be written.
    """
    if out.exists() and not (out / "custom_generate").is_dir() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} holds something else than an export: give --out a new directory")
    place = find_adapter(source, method=method, seed=seed)
    run = next((path for path in (source, place.resolve().parents[1]) if (path / "config.json").is_file()), None)
    trained = {} if run is None else _json(run / "config.json")
    name = model or _base_model(place) or trained.get("model")
    if not isinstance(name, str):
        raise ValueError(f"{place} does not say with which model it was trained: give --model")
    lm = load_lm(name)
    adapter = load_adapter(place, lm=lm, allow_changed=allow_changed)
    with replacing(out) as partial:
        save_adapter(partial / place.name, adapter, lm)
        description, arrays = read_portable(partial / place.name)
        shutil.rmtree(partial / place.name)
        description |= {"license": LICENSE, "trained": trained, "results": [] if run is None else _results(run, place.name)}
        write_portable(partial, arrays, description)
        code = partial / "custom_generate"
        code.mkdir()
        shutil.copy(TEMPLATE / "generate.py", code)
        (code / "adapter.py").write_text(_as_python(description, (partial / WEIGHTS).read_bytes(), lm))
        (partial / "README.md").write_text(_card(description, out.name))


def _base_model(place: Path) -> str | None:
    return read_portable(place)[0].get("base_model") if (place / CONFIG).is_file() else None


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _results(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of the run's results that are the adapter's; adapters are named by method and, where there are several, CoT."""
    file = run / "results.json"
    if not file.is_file():
        return []
    mine = name.rpartition("-seed")[0] or name

    def is_mine(row: Mapping[str, Any]) -> bool:
        method = re.sub(r"[^a-z0-9]+", "-", row["method"].lower())
        return mine in (method, f"{method}-{row['cot']}")

    try:
        return [row for row in _json(file)["rows"] if is_mine(row)]
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


def _card(description: Mapping[str, Any], name: str) -> str:
    """The model card."""
    model, kind, trained = description["base_model"], description["kind"], description["trained"]
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", model) is not None
    told = "of how many samples you ask for (`num_return_sequences`)" if kind == "sequence" else "of the token budget"
    inputs = {
        "hidden+budget": f"the hidden state and {told[3:]} that is left",
        "hidden": "the hidden state",
        "entropy": "the entropy of the next token",
    }
    sees = (
        f"the prompt, and is told {told}"
        if description.get("sees_samples")
        else "the prompt"
        if kind == "sequence"
        else inputs[description["inputs"]]
    )
    actions = description["actions"]
    settings = ["| action | temperature | top_k | top_p | min_p |", "| --: | --: | --: | --: | --: |"]
    for index, values in enumerate(zip(*(actions[field] for field in ("temperature", "top_k", "top_p", "min_p")), strict=True)):
        settings.append(f"| {index} | " + " | ".join(f"{value:.4g}" for value in values) + " |")
    rows = ["| metric | CoT | budget | value | 95% interval | problems |", "| :-- | :-- | --: | --: | --: | --: |"]
    for row in description["results"]:
        value = f"{100 * row['value']:.1f}% | ± {100 * row['ci95']:.1f}"
        rows.append(f"| {row['metric']} | {row['cot']} | {row['budget']} | {value} | {row['n']} |")
    front = ["---", "library_name: transformers", f"license: {LICENSE}", "tags:", "- custom_generate", "- adaptive-decoding"]
    front += [f"base_model: {model}"] if hub else []
    trained_on = (
        f"On {trained['dataset']}, by {trained.get('experiment', 'adaptive_jax')}." if "dataset" in trained else "Not recorded."
    )
    return CARD.format(
        front="\n".join([*front, "---"]),
        name=name,
        model=model,
        each="each prompt" if kind == "sequence" else "each token",
        sees=sees,
        source=model if hub else "PATH_OF_THE_BASE_MODEL",
        settings="\n".join(settings),
        trained=trained_on,
        results="\n".join(rows) if description["results"] else "None recorded.",
    )


CARD = """{front}
# {name}

A sampling policy for the frozen language model {model}: for {each} it chooses how to sample. It sees {sees}.
After *Learning Adaptive LLM Decoding* (arXiv 2603.09065), trained with adaptive_jax. The model's weights are not changed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{source}")
tokenizer = AutoTokenizer.from_pretrained("{source}", padding_side="left")
inputs = tokenizer(["Question: What is 17 plus 25?\\nAnswer:"], return_tensors="pt").to(model.device)
output = model.generate(**inputs, custom_generate="{name}", trust_remote_code=True, max_new_tokens=256)
print(tokenizer.batch_decode(output))
```

`custom_generate` is this directory, or its repository on the hub. `budget=` gives each prompt a token budget of its own.
With `return_dict_in_generate=True` the output has `actions` and `action_probabilities`, too.

## Settings

{settings}

## Training

{trained} See `adapter_config.json`.

## Results

{results}

## Limits

- It belongs to {model} and to no other model, nor to a fine-tuned or quantised one; a hidden state is compared before decoding.
- Beam search, assisted decoding and logits processors are refused, as they do not sample token by token from the model.
- It was trained on the task above; on others it may be worse than a fixed setting.
"""
