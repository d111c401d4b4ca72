"""What the pretraining of the embedded models shares: next-token prediction on packed rows, and the directory it ends in."""

import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.rope import RopeConfig
from adaptive_jax.lm.transformer import Transformer
from adaptive_jax.lm.weights import save_hf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

CONTEXT = 1024
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class PretrainConfig:
    """Flags of a pretraining.

    Attributes:
        out: directory for the model and the training log.
        steps: optimiser steps.
        rows: packed rows per step.
        row_length: tokens per packed row.
        learning_rate: peak of the cosine schedule (AdamW, weight decay 0.1).
        seed: of the initial weights and the data order.
        hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size: shape of the model.
    """

    out: Path
    steps: int = 1800
    rows: int = 24
    row_length: int = 256
    learning_rate: float = 3e-3
    seed: int = 0
    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256


def packed_row(prompt: list[int], solutions: Iterable[list[int]], row_length: int) -> dict[str, np.ndarray]:
    """One prompt, then its solutions up to the first that does not fit.

    Args:
        prompt: token ids.
        solutions: token ids of each; none is drawn behind the first that does not fit.
        row_length: tokens of the row, padding included.

    Returns:
        tokens, positions, segment (0 prompt, 1.. solutions, -1 padding): int32 [row_length]; weight: float32, 1 on the
        tokens of solutions that are predicted.
    """
    tokens, positions, segment = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    for number, text in enumerate(solutions, start=1):
        # the prompt's last token predicts the solution's first, so each solution starts with a copy of it
        solution = [prompt[-1], *text]
        if len(tokens) + len(solution) > row_length:
            break
        tokens += solution
        positions += range(len(prompt) - 1, len(prompt) - 1 + len(solution))
        segment += [number] * len(solution)
    padding = row_length - len(tokens)
    segments = np.array(segment + [-1] * padding, np.int32)
    weight = np.zeros(row_length, np.float32)
    weight[:-1] = (segments[:-1] > 0) & (segments[1:] == segments[:-1])
    return {
        "tokens": np.array(tokens + [0] * padding, np.int32),
        "positions": np.array(positions + [0] * padding, np.int32),
        "segment": segments,
        "weight": weight,
    }


def packed_examples(examples: Iterator[tuple[list[int], list[int]]], row_length: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless packed rows of prompts with one solution each; an example that does not fit opens the next row.

    Args:
        examples: token ids of a prompt and of its solution, endlessly; none longer than a row.
        row_length: tokens of a row, padding included.

    Yields:
        As `packed_row`, but each segment from 1 on is a prompt and its solution, and there is none that others see.
    """
    prompt, solution = next(examples)
    while True:
        row = {name: np.zeros(row_length, np.int32) for name in ("tokens", "positions")}
        row |= {"segment": np.full(row_length, -1, np.int32), "weight": np.zeros(row_length, np.float32)}
        start = number = 0
        while start + len(prompt) + len(solution) <= row_length:
            number, end = number + 1, start + len(prompt) + len(solution)
            row["tokens"][start:end] = [*prompt, *solution]
            row["positions"][start:end] = range(end - start)
            row["segment"][start:end] = number
            row["weight"][start + len(prompt) - 1 : end - 1] = 1
            start = end
            prompt, solution = next(examples)
        yield row


def attention_mask(segment: jax.Array, positions: jax.Array, prompt_length: jax.Array) -> jax.Array:
    """bool [B, T, T]: a solution sees its prompt (but for the last token, of which it has a copy) and itself, causally."""
    length = segment.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]
    same = segment[:, :, None] == segment[:, None, :]
    prompt = (segment == 0) & (positions < prompt_length[:, None] - 1)
    return causal & (same | prompt[:, None, :])


def pretrain(config: PretrainConfig, tokenizer: "PreTrainedTokenizerFast", rows: Iterator[dict[str, np.ndarray]]) -> None:
    """Train on packed rows, and write the model to `config.out`."""
    lm_config = LMConfig(
        family="qwen3",
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.hidden_size // config.num_heads,
        max_positions=CONTEXT,
        rope=RopeConfig(theta=10_000.0),
        qk_norm=True,
    )
    graphdef, params = nnx.split(Transformer(lm_config, rngs=nnx.Rngs(config.seed)))
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 20, config.steps, 1e-5)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.99, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    )
    opt_state = optimizer.init(params)
    count = sum(x.size for x in jax.tree.leaves(params))
    log.info("%d parameters, vocabulary %d", count, len(tokenizer))

    def loss_fn(params: nnx.State, batch: dict[str, jax.Array]) -> jax.Array:
        model = nnx.merge(graphdef, params)
        prompt_length = jnp.sum(batch["segment"] == 0, axis=1)
        mask = attention_mask(batch["segment"], batch["positions"], prompt_length)
        hidden, _ = model(batch["tokens"], batch["positions"], mask)
        losses = optax.softmax_cross_entropy_with_integer_labels(model.logits(hidden[:, :-1]), batch["tokens"][:, 1:])
        weight = batch["weight"][:, :-1]
        return jnp.sum(losses * weight) / jnp.sum(weight)

    @jax.jit
    def train_step(params: nnx.State, opt_state: optax.OptState, batch: dict[str, jax.Array]) -> tuple:
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    config.out.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    start = time.monotonic()
    with (config.out / "metrics.jsonl").open("w") as metrics:
        for step in range(1, config.steps + 1):
            drawn = [next(rows) for _ in range(config.rows)]
            batch = {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}
            params, opt_state, loss = train_step(params, opt_state, batch)
            losses.append(float(loss))
            if step % 50 == 0 or step == config.steps:
                recent = float(np.mean(losses[-50:]))
                elapsed = time.monotonic() - start
                left = elapsed / step * (config.steps - step)
                log.info("step %d of %d: loss %.4f, %.0f s, %.0f s left", step, config.steps, recent, elapsed, left)
                metrics.write(json.dumps({"step": step, "loss": recent, "seconds": elapsed}) + "\n")
                metrics.flush()
            if step % 500 == 0 or step == config.steps:
                export(config, lm_config, params, tokenizer)


def export(config: PretrainConfig, lm_config: LMConfig, params: nnx.State, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Write the Hugging Face directory: config.json, generation_config.json, model.safetensors and the tokenizer."""
    save_hf(config.out, lm_config, params)
    tokenizer.save_pretrained(config.out)
    saved = config.out / "tokenizer_config.json"
    # the class that transformers 4 and 5 both know; 5 writes one of its own
    portable = json.loads(saved.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    portable.pop("backend", None)
    saved.write_text(json.dumps(portable, indent=2) + "\n")
    (config.out / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}) + "\n")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
    (config.out / "pretraining.json").write_text(json.dumps(settings, indent=2) + "\n")
