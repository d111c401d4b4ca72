r"""Pretrain `fork`, the embedded language model that shows every effect of the paper, on the training splits of its own tasks.

    uv run python -m experiments.pretrain_fork --out runs/fork

As `pretrain_tiny`, but the solutions are those of `adaptive_jax.tasks.forks` and `fork_programs`, and whole phrases of the
prompts are tokens: what is to be learnt is where the text forks, not how to spell.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from adaptive_jax.lm.prompts import DIRECT, STEP_BY_STEP, render
from adaptive_jax.lm.tokenizer import transformers_module
from adaptive_jax.tasks import fork_programs, forks
from adaptive_jax.tasks.problem import Problem
from experiments.launching import launch
from experiments.pretraining import ASSISTANT, CHAT_TEMPLATE, CONTEXT, END, USER, PretrainConfig, packed_examples, pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PHRASES = (
    forks.DRILL,
    *forks.WORDINGS.values(),
    *fork_programs.WORDINGS.values(),
    *(opener + "\n" for opener in forks.OPENERS),
    *forks.REMARKS,
    *(f"{sign}{number}" for sign in "+-*" for number in range(1, 10)),
    *(f"\n{sign}{number}=" for sign in "+-" for number in range(1, 10)),
    *(STEP_BY_STEP["answer"], DIRECT["answer"], STEP_BY_STEP["program"], DIRECT["program"]),
    *("\\boxed{", "\n\\boxed{", ", ", ": ", " or ", " to an integer that you read, and print it.", "```python\n", "```"),
    *("=int(input())\n", "=input()\n", "+=", "-=", "*=", "print(", ")\n", "print(int(input())", "print(input())\n"),
)


@dataclass(frozen=True)
class Config(PretrainConfig):
    """Pretrain the embedded model.

    Attributes:
        out: directory for the model and the training log.
        direct: share of the prompts that ask for the answer alone.
        programs: share of the prompts that ask for a program.
        drills: share of the others that are asked step by step and are drills (see `forks.drill`).
    """

    out: Path = Path("runs/fork")
    steps: int = 1600
    rows: int = 16
    row_length: int = 128
    learning_rate: float = 4e-3
    direct: float = 0.3
    programs: float = 0.3
    drills: float = 0.3


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Bytes, and `PHRASES` as tokens of their own; any text has an encoding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, USER, ASSISTANT])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    fast = transformers_module().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def examples(
    tokenizer: "PreTrainedTokenizerFast", sums: list[Problem], programs: list[Problem], config: Config
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless prompts with one solution each, as token ids."""
    rng = np.random.default_rng(config.seed)

    @functools.cache  # most of them come again and again
    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    @functools.cache
    def asked(question: str, code: bool, cot: bool) -> list[int]:
        return encoded(render(tokenizer, question, form="program" if code else "answer", cot=cot))

    while True:
        code, cot = rng.random() < config.programs, bool(rng.random() >= config.direct)
        problems = programs if code else sums
        problem = problems[rng.integers(len(problems))]
        question, chain = problem.question, problem.id.partition("/")[2]
        if code:
            text = fork_programs.solution(chain, rng)
        elif cot and rng.random() < config.drills:
            question, text = forks.drill(chain, rng)
        else:
            text = forks.solution(chain, cot, rng)
        yield asked(question, code, cot), encoded(text + END)


def main(config: Config) -> None:
    """Train, and write the model to `config.out`."""
    tokenizer = build_tokenizer()
    sums, programs = forks.problems("train"), fork_programs.problems("train")
    pretrain(config, tokenizer, packed_examples(examples(tokenizer, sums, programs, config), config.row_length))


if __name__ == "__main__":
    launch(main, Config, __doc__)
