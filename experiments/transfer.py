"""What experiments that train on one data set and evaluate on others share: three flags, and the questions behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptive_jax.decoding.prompt import problem_digest
from adaptive_jax.learning.environment import Cot, Environment, questions
from adaptive_jax.lm.model import LM
from adaptive_jax.runs.fingerprint import problems_fingerprint
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem, shared
from experiments.common import Config, Splits, check_kind


@dataclass(frozen=True)
class TransferConfig(Config):
    """Flags of every experiment that evaluates on other problems, too.

    Attributes:
        eval_dataset: problems of another distribution, a name or a file, that the same adapters are evaluated on too.
        thinking: for chat templates that know thinking, whether it is on.
        example: show a solved problem before each question; small models seldom box an answer without.
    """

    eval_dataset: str | None = None
    thinking: bool | None = None
    example: bool = False


def parts_of(config: TransferConfig, splits: Splits, *, programs: bool = False) -> dict[str, list[Problem]]:
    """The problems of an experiment by their name: "training", "validation", and the data sets that are evaluated.

    Raises:
        ValueError: --eval-dataset is --dataset, or holds problems of the other kind, or some that are trained on.
    """
    parts = {"training": splits.train, "validation": splits.validation, config.dataset: splits.test}
    if config.eval_dataset is None:
        return parts
    name = config.eval_dataset
    if name in parts:
        raise ValueError(f"--eval-dataset {name} is --dataset, which is evaluated anyway: give another one")
    found = load_problems(name, limit=config.limit, skip_bad=config.skip_bad)
    check_kind(f"--eval-dataset {name}", found, programs=programs)
    if seen := shared(found, [*splits.train, *splits.validation]):
        raise ValueError(f"--eval-dataset {name} shares {len(seen)} problems with those trained on: give another one")
    return parts | {name: found}


def environment_of(
    lm: LM,
    problems: Sequence[Problem],
    ways: Sequence[Cot],
    config: TransferConfig,
    *,
    completions: int,
    allow_unsandboxed: bool = False,
) -> Environment:
    """The problems, asked in each of the ways, each of which is to get at most so many completions at once.

    Raises:
        ValueError: see `Environment.check`, with the largest token budget.
    """
    asked = [question for way in ways for question in questions(problems, way)]
    found = Environment(lm, asked, thinking=config.thinking, example=config.example, allow_unsandboxed=allow_unsandboxed)
    found.check(max(config.budgets), rows=config.rows, completions=completions)
    return found


def asked_digest(environment: Environment) -> np.ndarray:
    """uint32 [2], tells the problems of --eval-dataset, which the run's fingerprint knows by name only, from others."""
    return problem_digest(problems_fingerprint([question.problem for question in environment.questions]))
