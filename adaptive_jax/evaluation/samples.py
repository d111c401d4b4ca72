"""A few completions of every verdict, word for word, so that a person can see what was refused, and why."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from adaptive_jax.decoding.params import SamplingParams, action_names
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.environment import Environment
from adaptive_jax.parallel import exchange

KEPT = 20  # completions of each verdict

Sample = dict[str, Any]
NONE = np.frombuffer(b"[]", np.uint8)  # no sample


def samples_of(
    environment: Environment,
    trajectory: Trajectory,
    verdicts: Shaped[np.ndarray, "completions cuts"],
    asked: Int[np.ndarray, " asked"],
    cuts: Sequence[int] | None,
    actions: SamplingParams,
    groups: int = 1,
) -> UInt8[np.ndarray, " bytes"]:
    """`KEPT` completions of each verdict and group, of all processes; which ones depends on the problems alone.

    They are those with the lowest hash of problem, completion and budget: a uniform draw, the same on any number of processes.

    Args:
      trajectory: as many completions of each question asked.
      verdicts: of each completion, strings.
      asked: the questions.
      cuts: token budgets; None for one, where each completion has its own.
      actions: the policy's action space, shape [A].
      groups: completion i of a question belongs to group i % groups.

    Returns:
      A JSON list of objects with "group", "verdict", "problem", "question", "gold", "cot" ("all" or "none": how
      it was asked), "budget", "completion" and "text"; and of each token its text, the name of its action, and the entropy of
      the model's distribution in nats and its top probability, before the action: "tokens", "actions", "entropy",
      "top_probability".
    """
    each = len(trajectory.lengths) // len(asked)
    names = [environment.prompt(int(index), 1).id for index in asked]
    drawn: dict[tuple[int, str], list[tuple[str, int, int]]] = {}
    for n, k in np.ndindex(*verdicts.shape):
        budget = int(trajectory.budgets[n]) if cuts is None else cuts[k]
        order = hashlib.sha256(f"{names[n // each]} {n % each} {budget}".encode()).hexdigest()
        drawn.setdefault((n % each % groups, str(verdicts[n, k])), []).append((order, n, budget))
    own: list[Sample] = []
    settings, tokenizer = action_names(actions), environment.lm.tokenizer
    for (group, verdict), candidates in drawn.items():
        chosen = heapq.nsmallest(KEPT, candidates)
        numbers = [n for _, n, _ in chosen]
        lengths = np.minimum(trajectory.lengths[numbers], [budget for *_, budget in chosen])
        texts = environment.texts(trajectory.tokens[numbers], lengths)
        for (order, n, budget), text, length in zip(chosen, texts, lengths.tolist(), strict=True):
            question = environment.questions[asked[n // each]]
            problem, way = question.problem, {"cot": "all" if question.cot else "none", "budget": budget}
            told = {"problem": problem.id, "question": problem.question, "gold": problem.answer, **way}
            own.append({"group": group, "verdict": verdict, **told, "completion": n % each, "text": text, "order": order})
            own[-1] |= {
                "tokens": tokenizer.batch_decode(trajectory.tokens[n, :length, None]),
                "actions": [settings[action] for action in trajectory.actions[n, :length]],
                "entropy": np.round(trajectory.entropy[n, :length].astype(float), 3).tolist(),
                "top_probability": np.round(trajectory.top_probability[n, :length].astype(float), 3).tolist(),
            }
    everyones = [sample for theirs in exchange({"samples": _packed(own)}) for sample in unpacked(theirs["samples"])]
    everyones.sort(key=lambda sample: (sample["group"], sample["verdict"], sample.pop("order")))
    return _packed(few(everyones, ("group", "verdict")))


def few(samples: Iterable[Sample], fields: Sequence[str]) -> list[Sample]:
    """The first `KEPT` samples of those that are alike in the given fields."""
    counts: dict[tuple[Any, ...], int] = {}
    kept = []
    for sample in samples:
        kind = tuple(sample[field] for field in fields)
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= KEPT:
            kept.append(sample)
    return kept


def samples_jsonl(methods: Mapping[str, Iterable[Sample]]) -> str:
    """The content of `samples.jsonl`: a line for each of `KEPT` samples of each verdict and method, with "method" in front."""
    named = ({"method": name} | sample for name, samples in methods.items() for sample in samples)
    lines = [{key: value for key, value in sample.items() if key != "group"} for sample in few(named, ("method", "verdict"))]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _packed(samples: list[Sample]) -> UInt8[np.ndarray, " bytes"]:
    return np.frombuffer(json.dumps(samples).encode(), np.uint8)


def unpacked(content: UInt8[np.ndarray, " bytes"]) -> list[Sample]:
    """The samples in what `samples_of` returns."""
    return json.loads(content.tobytes())
