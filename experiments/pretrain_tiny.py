r"""Pretrain `tiny`, the embedded language model, on worked solutions of the arithmetic task's training split.

    uv run python -m experiments.pretrain_tiny --out runs/tiny

A small Qwen3-architecture model is trained by next-token prediction on prompts in its own chat template, each followed by
several solutions drawn by `adaptive_jax.tasks.arithmetic.worked_solution`. The solutions of one prompt are packed behind it
and see the prompt and themselves only, so a prompt is computed once. The result is a Hugging Face directory.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from adaptive_jax.lm.prompts import render
from adaptive_jax.lm.tokenizer import transformers_module
from adaptive_jax.tasks import arithmetic
from adaptive_jax.tasks.problem import Problem
from experiments.launching import launch
from experiments.pretraining import ASSISTANT, CHAT_TEMPLATE, CONTEXT, END, USER, PretrainConfig, packed_row, pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("experiments.pretrain_tiny")  # __name__ is __main__ under python -m


@dataclass(frozen=True)
class Config(PretrainConfig):
    """Pretrain the embedded model.

    Attributes:
        direct: share of the prompts that ask for the answer alone.
    """

    out: Path = Path("runs/tiny")
    direct: float = 0.2


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
            # a direct answer is short: a handful is enough, the rest of the row would repeat one prompt too often
            texts = (arithmetic.worked_solution(chain, cot, rng) + END for _ in range(8))
            yield packed_row(prompt, (tokenizer.encode(text, add_special_tokens=False) for text in texts), config.row_length)


def main(config: Config) -> None:
    """Train, and write the model to `config.out`."""
    problems = arithmetic.problems("train")
    tokenizer = train_tokenizer(_tokenizer_corpus(problems, np.random.default_rng(config.seed)))
    log.info("%d training problems", len(problems))
    pretrain(config, tokenizer, packed_rows(tokenizer, problems, config))


def _tokenizer_corpus(problems: list[Problem], rng: np.random.Generator) -> list[str]:
    lines = []
    for problem in problems[:2000]:
        chain = problem.id.removeprefix("arithmetic/")
        for cot in (True, False):
            content = render(None, problem.question, cot=cot).removeprefix("Question: ").removesuffix("\nAnswer:")
            lines += [content, arithmetic.worked_solution(chain, cot, rng)]
    return lines


if __name__ == "__main__":
    launch(main, Config, __doc__)
