"""Which problems an experiment evaluates, watches, trains on and shows as examples."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_jax.tasks.loading import generated, load_problems
from adaptive_jax.tasks.problem import Problem, normalise_question, shared
from adaptive_jax.tasks.solutions import solved
from experiments.asking import COMPONENT, AskingConfig

log = logging.getLogger(__name__)

MIXED = " + "  # between the data sets of a mixture


@dataclass(frozen=True)
class Splits:
    """Problems to evaluate, to watch during training, to train on, and to show as examples; no two share a problem."""

    test: list[Problem]
    validation: list[Problem]
    train: list[Problem]
    examples: list[Problem]


def load_splits(config: AskingConfig, *, programs: bool = False) -> Splits:
    """The problems of an experiment, which ask for programs or for answers in boxes.

    Raises:
        ValueError, OSError: there is no such data set, or nothing is left to train on; names the flag or file to mend.
    """
    names = config.dataset.split(MIXED)
    splits = _mixture(config, names, programs=programs) if len(names) > 1 else _single(config, programs=programs)
    if not splits.test:
        raise ValueError(f"--skip {config.skip}: --dataset {config.dataset} has no problem to evaluate beyond that: give less")
    return splits


def _single(config: AskingConfig, *, programs: bool) -> Splits:
    """Of one data set; see `load_splits`."""
    trained = config.train_limit or (64 if config.slow else 512)
    watched = max(trained // 4, 1)
    last, shown = config.skip + config.limit, config.examples
    if generated(config.dataset) and config.train_dataset is None:
        test = load_problems(config.dataset, split="test", limit=last)[config.skip :]
        check_kind(f"--dataset {config.dataset}", test, programs=programs)
        validation = load_problems(config.dataset, split="validation", limit=watched)
        train = load_problems(config.dataset, split="train", limit=shown + trained)
        examples, train = with_examples(config, train)
        return Splits(test, validation, train, examples)
    load = functools.partial(load_problems, skip_bad=config.skip_bad, answered=config.reward is None)
    problems = load(config.dataset, split="test", limit=last if generated(config.dataset) else None)
    test = problems[config.skip : last]
    if config.train_dataset is not None:
        most = shown + watched + trained if generated(config.train_dataset) else None
        others = load(config.train_dataset, split="train", limit=most)
    elif Path(config.dataset).suffix:
        others = problems[last:]
    else:
        try:
            others = load(config.dataset, split="train")
        except ValueError as error:
            raise ValueError(f"{error}; give --train-dataset") from error
    source = f"--dataset {config.dataset}" if config.train_dataset is None else f"--train-dataset {config.train_dataset}"
    check_kind(f"--dataset {config.dataset}", problems, programs=programs)
    check_kind(source, others, programs=programs)
    held_out = {normalise_question(problem.question) for problem in test}
    unique: dict[str, Problem] = {}
    for problem in others:
        text = normalise_question(problem.question)
        if text not in held_out:
            unique.setdefault(text, problem)
    if len(unique) < len(others):
        log.info("%d training problems are repeated or also to be evaluated; left out", len(others) - len(unique))
    examples, others = with_examples(config, list(unique.values()))
    watched = min(watched, len(others) // 4)
    if watched == 0:
        if config.train_dataset is None:
            taken = f"with --skip {config.skip} and --limit {config.limit} too few are left to train on"
            raise ValueError(f"{source} has {len(problems)} problems; {taken}: lower them, or give --train-dataset")
        raise ValueError(f"{source} has {len(unique)} problems that are not evaluated: too few to train on, give a larger one")
    return Splits(test, others[:watched], others[watched : watched + trained], examples)


def _mixture(config: AskingConfig, names: Sequence[str], *, programs: bool) -> Splits:
    """Equal parts of several data sets, in turn; each problem says which it is from, and its id begins with that one's number.

    Raises:
        ValueError: a limit that leaves a data set nothing, or see `load_splits`.
    """
    if config.train_dataset is not None:
        raise ValueError("--train-dataset does not go with a mixture: its data sets bring their own training problems")
    trained = config.train_limit or (64 if config.slow else 512)
    found = []
    for number, name in enumerate(names):
        own = {"limit": config.limit, "skip": config.skip, "train_limit": trained}
        sizes: dict[str, Any] = {flag: (total + len(names) - 1 - number) // len(names) for flag, total in own.items()}
        for flag, size in sizes.items():
            if size == 0 < own[flag]:
                raise ValueError(f"--{flag.replace('_', '-')} {own[flag]}: give at least {len(names)}, one for each data set")
        part = _single(dataclasses.replace(config, dataset=name, **sizes), programs=programs)
        if len(part.test) < sizes["limit"]:
            log.warning("%s: %d problems to evaluate instead of %d; it has no more", name, len(part.test), sizes["limit"])
        lists = part.test, part.validation, part.train, part.examples
        found.append([[_from(problem, number, name) for problem in problems] for problems in lists])
    if seen := shared([p for lists in found for p in lists[0]], [p for lists in found for part in lists[1:] for p in part]):
        raise ValueError(f"--dataset {config.dataset}: {len(seen)} problems of one data set are those of another's other split")
    turns = (itertools.chain(*itertools.zip_longest(*lists)) for lists in zip(*found, strict=True))
    return Splits(*([problem for problem in problems if problem is not None] for problems in turns))


def _from(problem: Problem, number: int, name: str) -> Problem:
    return dataclasses.replace(problem, id=f"{number}/{problem.id}", metadata={**problem.metadata, COMPONENT: name})


def with_examples(config: AskingConfig, problems: list[Problem]) -> tuple[list[Problem], list[Problem]]:
    """The first problems with a solution to show, as many as --examples says, and the others.

    Raises:
        ValueError: too few have one.
    """
    examples: list[Problem] = []
    faults: list[ValueError] = []
    for problem in problems:
        if len(examples) == config.examples:
            break
        try:
            solved(problem, cot=config.cot != "none")
        except ValueError as fault:
            faults.append(fault)
        else:
            examples.append(problem)
    if len(examples) < config.examples:
        why = f": {faults[0]}" if faults else ""
        raise ValueError(f"--examples {config.examples}: only {len(examples)} training problems can be shown{why}")
    ids = {problem.id for problem in examples}
    return examples, [problem for problem in problems if problem.id not in ids]


def check_kind(flag: str, problems: Iterable[Problem], *, programs: bool) -> None:
    """Raises ValueError, naming the flag, where problems ask for programs and `programs` is not set, or the other way round."""
    if any((problem.kind == "code") != programs for problem in problems):
        held, asked = "programming problems", "answers in \\boxed{}: use code_sequence"
        if programs:
            held, asked = "problems that ask for an answer", "programs: use math_sequence or math_token"
        raise ValueError(f"{flag} holds {held}, and this experiment asks for {asked}")


@dataclass(frozen=True)
class TransferConfig(AskingConfig):
    """Flags of every experiment that evaluates on other problems, too.

    Attributes:
        eval_dataset: problems of another distribution, a name or a file, that the same adapters are evaluated on too.
    """

    eval_dataset: str | None = None


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
    found = load_problems(name, limit=config.limit, skip_bad=config.skip_bad, answered=config.reward is None)
    check_kind(f"--eval-dataset {name}", found, programs=programs)
    if seen := shared(found, [*splits.train, *splits.validation]):
        raise ValueError(f"--eval-dataset {name} shares {len(seen)} problems with those trained on: give another one")
    return parts | {name: found}
