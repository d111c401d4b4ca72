r"""Pretrain `tiny`, the embedded language model, on worked solutions of the arithmetic task's training split.

    uv run python -m experiments.pretrain_tiny --out runs/tiny

A small Qwen3-architecture model is trained by next-token prediction on prompts in its own chat template, each followed by
several solutions drawn by `adaptive_jax.tasks.arithmetic.worked_solution`. The solutions of one prompt are packed behind it
and see the prompt and themselves only, so a prompt is computed once. The result is a Hugging Face directory.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from adaptive_jax.lm.config import LMConfig, RopeConfig
from adaptive_jax.lm.prompts import render
from adaptive_jax.lm.tokenizer import transformers_module
from adaptive_jax.lm.transformer import Transformer
from adaptive_jax.lm.weights import save_hf
from adaptive_jax.tasks import arithmetic
from adaptive_jax.tasks.problem import Problem
from experiments.launching import launch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("experiments.pretrain_tiny")  # __name__ is __main__ under python -m

CONTEXT = 1024
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Config:
    """Pretrain the embedded model.

    Attributes:
        out: directory for the model and the training log.
        steps: optimiser steps.
        rows: packed rows per step.
        row_length: tokens per packed row.
        learning_rate: peak of the cosine schedule (AdamW, weight decay 0.1).
        direct: share of the prompts that ask for the answer alone.
        seed: of the initial weights and the data order.
        hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size: shape of the model.
    """

    out: Path = Path("runs/tiny")
    steps: int = 1800
    rows: int = 24
    row_length: int = 256
    learning_rate: float = 3e-3
    direct: float = 0.2
    seed: int = 0
    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256


def train_tokenizer(texts: list[str]) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer whose merges join words, never digits; any text has an encoding."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\\boxed\{| ?[A-Za-z]+,? ?|\d|\s|[^\sA-Za-z\d]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=2,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers_module().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def packed_rows(
    tokenizer: "PreTrainedTokenizerFast", problems: list[Problem], config: Config
) -> Iterator[dict[str, np.ndarray]]:
    """Endless packed rows: one prompt, then its solutions up to the first that does not fit.

    That leaves long, much re-checked solutions out a little more often than short ones.

    Yields:
        tokens, positions, segment (0 prompt, 1.. solutions, -1 padding): int32 [row_length]; weight: float32, 1 on the
        tokens of solutions that are predicted.
    """
    rng = np.random.default_rng(config.seed)
    while True:
        for index in rng.permutation(len(problems)):
            problem = problems[index]
            chain = problem.id.removeprefix("arithmetic/")
            cot = bool(rng.random() >= config.direct)
            prompt = tokenizer.encode(render(tokenizer, problem.question, cot=cot), add_special_tokens=False)
            tokens, positions, segment = list(prompt), list(range(len(prompt))), [0] * len(prompt)
            # a direct answer is short: a handful is enough, the rest of the row would repeat one prompt too often
            for number in range(1, 9):
                text = arithmetic.worked_solution(chain, cot, rng) + END
                # the prompt's last token predicts the solution's first, so each solution starts with a copy of it
                solution = [prompt[-1], *tokenizer.encode(text, add_special_tokens=False)]
                if len(tokens) + len(solution) > config.row_length:
                    break
                tokens += solution
                positions += range(len(prompt) - 1, len(prompt) - 1 + len(solution))
                segment += [number] * len(solution)
            padding = config.row_length - len(tokens)
            segments = np.array(segment + [-1] * padding, np.int32)
            weight = np.zeros(config.row_length, np.float32)
            weight[:-1] = (segments[:-1] > 0) & (segments[1:] == segments[:-1])
            yield {
                "tokens": np.array(tokens + [0] * padding, np.int32),
                "positions": np.array(positions + [0] * padding, np.int32),
                "segment": segments,
                "weight": weight,
            }


def attention_mask(segment: jax.Array, positions: jax.Array, prompt_length: jax.Array) -> jax.Array:
    """bool [B, T, T]: a solution sees its prompt (but for the last token, of which it has a copy) and itself, causally."""
    length = segment.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None]
    same = segment[:, :, None] == segment[:, None, :]
    prompt = (segment == 0) & (positions < prompt_length[:, None] - 1)
    return causal & (same | prompt[:, None, :])


def main(config: Config) -> None:
    """Train, and write the model to `config.out`."""
    problems = arithmetic.problems("train")
    rng = np.random.default_rng(config.seed)
    tokenizer = train_tokenizer(_tokenizer_corpus(problems, rng))
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
    log.info("%d parameters, vocabulary %d, %d training problems", count, len(tokenizer), len(problems))

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

    rows = packed_rows(tokenizer, problems, config)
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


def _tokenizer_corpus(problems: list[Problem], rng: np.random.Generator) -> list[str]:
    lines = []
    for problem in problems[:2000]:
        chain = problem.id.removeprefix("arithmetic/")
        for cot in (True, False):
            content = render(None, problem.question, cot=cot).removeprefix("Question: ").removesuffix("\nAnswer:")
            lines += [content, arithmetic.worked_solution(chain, cot, rng)]
    return lines


def export(config: Config, lm_config: LMConfig, params: nnx.State, tokenizer: "PreTrainedTokenizerFast") -> None:
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


if __name__ == "__main__":
    launch(main, Config, __doc__)
