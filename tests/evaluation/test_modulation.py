"""Entropy before and after the action, against softmax in NumPy over the logits of whole texts."""

from itertools import pairwise

import jax
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation import modulation
from adaptive_jax.evaluation.modulation import EDGES, modulation_of
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.fixed import mixed
from adaptive_jax.tasks.loading import load_problems
from tests.decoding.test_sampling import oracle

SETTINGS = [SamplingParams(0.0), SamplingParams(0.5), SamplingParams(1.0), SamplingParams(1.5, top_k=3)]


def entropy(chances: np.ndarray) -> float:
    return float(-sum(p * np.log(p) for p in chances if p > 0))


def test_entropies_are_those_of_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load_lm("tiny")
    environment = Environment(lm, load_problems("arithmetic", split="test", limit=3), "all")
    policy, asked = mixed(SETTINGS), np.array([2, 0, 1])
    done = rollout(
        lm.decoder,
        policy,
        [environment.prompt(int(question), 24) for question in asked],
        key=jax.random.key(3),
        stop_ids=environment.stop.ids,
        completions=4,
        rows=12,
        prompt_width=environment.prompt_width,
    )
    monkeypatch.setattr(modulation, "POINTS", 10**6)  # every step
    found = modulation_of(environment, done, asked, policy.actions)
    assert found["completions"] == 12  # so few are all looked at
    expected = []
    width = environment.prompt_width + 24
    for n, length in enumerate(done.lengths.tolist()):
        prompt = environment.prompt(int(asked[n // 4]), 24).tokens
        text = np.array([*prompt, *done.tokens[n, :length].tolist()], np.int32)
        padded, real = np.pad(text, (0, width - len(text)))[None], np.arange(width)[None] < len(text)
        logits = np.asarray(lm(padded, real)[0])[0, len(prompt) - 1 : len(text) - 1]
        for t in range(length):
            action = int(done.actions[n, t])
            s = SETTINGS[action]
            before, after = oracle(logits[t], 1.0, 0, 1.0, 0.0), oracle(logits[t], s.temperature, s.top_k, s.top_p, s.min_p)
            expected.append((entropy(before), entropy(after), action))
    points = sorted(map(tuple, found["points"]))
    assert sum(found["counts"]) == len(expected)
    expected = [step for step in expected if step[0] >= EDGES[1]]
    assert len(points) == len(expected) == sum(found["counts"][1:])
    for action in range(4):  # entropies round, so each action's are compared in order
        told, known = (np.sort([(b, a) for b, a, taken in steps if taken == action], axis=0) for steps in (points, expected))
        np.testing.assert_allclose(told, known, atol=2e-3)
    before, after, taken = map(np.array, zip(*expected, strict=True))
    assert (after[taken == 0] == 0).all()
    assert (after[taken == 3] <= np.log(3) + 1e-6).all()
    for (low, high), count, shift in zip(pairwise(EDGES[1:]), found["counts"][1:], found["shift"][1:], strict=True):
        inside = (before >= low) & (before < high)
        if count == inside.sum() and count:  # unless a step lies at the edge
            assert shift == pytest.approx((after - before)[inside].mean(), abs=2e-3)
