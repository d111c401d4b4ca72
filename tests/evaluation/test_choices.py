"""Methods that hold one action per question, by hand and against simulation."""

import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.evaluation.choices import Asked, Chances, Draws, adapter_choice, best_static, lookup_choice, oracle
from adaptive_jax.evaluation.statistics import pass_at_k
from tests.policies.adapters import random_sequence_adapter

HIDDEN = 6


def drawn(shares: np.ndarray, completions: int) -> np.ndarray:
    """Completions that are right with a chance under each action, float [Q, A]."""
    return np.random.default_rng(0).random((*shares.shape, completions)) < shares[..., None]


def asked(shares: np.ndarray, completions: int, kinds: list[str]) -> Asked:
    """Questions with such completions."""
    last, mean = np.random.default_rng(1).normal(size=(2, len(shares), HIDDEN)).astype(np.float32)
    return Asked(Draws(drawn(shares, completions)), last, mean, kinds)


def test_what_a_choice_reaches() -> None:
    some = asked(np.full((20, 3), 0.4), 5, ["same"] * 20)
    choice = np.arange(20) % 3
    wins = drawn(np.full((20, 3), 0.4), 5)
    expected = [pass_at_k(wins[q, choice[q]], 2) for q in range(20)]
    np.testing.assert_allclose(some.reached(choice, 2), expected)
    np.testing.assert_allclose(some.reached(1, 2), pass_at_k(wins[:, 1], 2))
    np.testing.assert_allclose(some.outcomes.of([3, 1]).rates(2), some.outcomes.rates(2)[[3, 1]])


def test_chances_are_what_many_draws_come_to() -> None:
    """The same numbers from chances as from 4,000 draws by them; each method reads them in the same way."""
    shares = np.random.default_rng(1).random((12, 3))
    many, chances = Draws(drawn(shares, 4000)), Chances(shares)
    for k in (1, 3, 8):
        np.testing.assert_allclose(chances.rates(k), many.rates(k), atol=0.06)
        np.testing.assert_allclose(chances.mixed(k, 0), many.mixed(k, 0), atol=0.06)
    np.testing.assert_allclose(chances.of([5, 2]).rates(3), chances.rates(3)[[5, 2]])


def test_best_static_depends_on_k() -> None:
    """A sure action on 60% of the questions against one that is right half the time on all of them."""
    sure = np.arange(100) < 60
    some = asked(np.stack([sure, np.full(100, 0.5)], axis=1), 16, [""] * 100)
    assert best_static(some, 1) == 0
    assert best_static(some, 8) == 1


def test_mixed_static_draws_an_action_for_each_completion() -> None:
    shares = np.tile([0.0, 1.0, 0.5, 0.5], (3000, 1))
    some = asked(shares, 8, [""] * 3000)
    for k in (1, 2, 8):
        assert some.outcomes.mixed(k, seed=0).mean() == pytest.approx(1 - 0.5**k, abs=0.02)
    assert not np.array_equal(some.outcomes.mixed(1, seed=0), some.outcomes.mixed(1, seed=1))
    np.testing.assert_array_equal(some.outcomes.mixed(8, 0) > 0, some.outcomes.mixed(1, 0) > 0)  # one draw for all k


def test_lookup_takes_each_kinds_best() -> None:
    kinds = ["a", "b"] * 50
    shares = np.array([[0.9, 0.1], [0.1, 0.6]] * 50)
    known = asked(shares, 8, kinds)
    new = asked(np.zeros((3, 2)), 8, ["b", "a", "never seen"])
    np.testing.assert_array_equal(lookup_choice(known, new, 1), [1, 0, 0])


def test_oracle_is_the_best_action_of_each_question() -> None:
    some = asked(np.full((30, 4), 0.3), 6, [""] * 30)
    best = oracle(some, 3)
    np.testing.assert_allclose(best, np.max([some.reached(action, 3) for action in range(4)], axis=0))
    assert best.mean() > some.reached(best_static(some, 3), 3).mean()


def test_an_adapter_chooses_what_it_would_hold_when_decoding() -> None:
    adapter, some = random_sequence_adapter(HIDDEN), asked(np.full((40, 3), 0.5), 2, [""] * 40)
    for k in (1, 8):
        count = jnp.full(40, k, jnp.int32)
        prompt = PromptObservation(jnp.asarray(some.last), jnp.asarray(some.mean), count, count, count)
        choice = adapter_choice(adapter, some, k)
        np.testing.assert_array_equal(choice, adapter.begin(prompt, jnp.full(40, 0.5)))
        assert len(set(choice.tolist())) > 1
