"""Small adapters, untrained and not."""

from typing import TypeVar

import jax

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.policies.sequence import Pooling, SequenceAdapter, sequence_adapter
from adaptive_jax.policies.token import BudgetEncoding, Inputs, TokenAdapter, token_adapter

AdapterT = TypeVar("AdapterT", TokenAdapter, SequenceAdapter)


def small_adapter(
    hidden_size: int, inputs: Inputs = "hidden+budget", *, seed: int = 1, encoding: BudgetEncoding = "two-hot"
) -> TokenAdapter:
    """An untrained adapter of width 16 for budgets up to 64: of one kind, so that few programs are compiled."""
    return token_adapter(hidden_size, inputs=inputs, width=16, budget_scale=64, budget_encoding=encoding, seed=seed)


def random_adapter(
    hidden_size: int,
    inputs: Inputs = "hidden+budget",
    *,
    scale: float = 1.0,
    seed: int = 1,
    encoding: BudgetEncoding = "two-hot",
) -> TokenAdapter:
    """An adapter whose last layer, zero in an untrained one, is normal noise times `scale`."""
    return with_random_head(small_adapter(hidden_size, inputs, seed=seed, encoding=encoding), scale, seed)


def random_sequence_adapter(
    hidden_size: int, pooling: Pooling = "both", *, sees_samples: bool = True, scale: float = 1.0, seed: int = 1
) -> SequenceAdapter:
    """A sequence adapter of width 16 with three actions, and noise for its last layer's kernel."""
    actions = SamplingParams.stack([SamplingParams(0.0), SamplingParams(0.7, top_p=0.9), SamplingParams(1.25)])
    adapter = sequence_adapter(hidden_size, actions, pooling=pooling, sees_samples=sees_samples, width=16, seed=seed)
    return with_random_head(adapter, scale, seed, ("kernel",))


def with_random_head(adapter: AdapterT, scale: float, seed: int, parts: tuple[str, ...] = ("kernel", "bias")) -> AdapterT:
    last = adapter.params["last"]
    for number, name in enumerate(parts):
        noise = scale * jax.random.normal(jax.random.key(100 * seed + number), last[name][...].shape)
        last[name] = last[name].replace(noise)
    return adapter
