"""Small adapters, untrained and not."""

import jax

from adaptive_jax.policies.token import Inputs, TokenAdapter, token_adapter


def small_adapter(hidden_size: int, inputs: Inputs = "hidden+budget", *, seed: int = 1) -> TokenAdapter:
    """An untrained adapter of width 16 for budgets up to 64: of one kind, so that few programs are compiled."""
    return token_adapter(hidden_size, inputs=inputs, width=16, budget_scale=64, seed=seed)


def random_adapter(hidden_size: int, inputs: Inputs = "hidden+budget", *, scale: float = 1.0, seed: int = 1) -> TokenAdapter:
    """An adapter whose last layer, zero in an untrained one, is normal noise times `scale`."""
    adapter = small_adapter(hidden_size, inputs, seed=seed)
    last = adapter.params["last"]
    for number, name in enumerate(("kernel", "bias")):
        noise = scale * jax.random.normal(jax.random.key(100 * seed + number), last[name][...].shape)
        last[name] = last[name].replace(noise)
    return adapter
