"""Adapters that are not uniform."""

import jax

from adaptive_jax.policies.token import Inputs, TokenAdapter, token_adapter


def random_adapter(hidden_size: int, inputs: Inputs = "hidden+budget", *, scale: float = 1.0, seed: int = 1) -> TokenAdapter:
    """An adapter whose last layer, zero in an untrained one, is normal noise times `scale`; its largest budget is 64."""
    adapter = token_adapter(hidden_size, inputs=inputs, budget_scale=64, seed=seed)
    last = adapter.params["last"]
    for number, name in enumerate(("kernel", "bias")):
        noise = scale * jax.random.normal(jax.random.key(100 * seed + number), last[name][...].shape)
        last[name] = last[name].replace(noise)
    return adapter
