"""The head of every learnt policy: a 3-layer MLP (paper, section on the token- and sequence-level adapters)."""

import jax
from flax import nnx
from jaxtyping import Array, Float


class MLP(nnx.Module):
    """Linear, SiLU, Linear, SiLU, Linear; the last layer starts at zero, so that training starts from a uniform policy.

    Args:
        inputs, width, outputs: sizes. The width is ours; the paper does not state it.
        rngs: a stream named "params".
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, rngs: nnx.Rngs):
        self.width = width
        self.first = nnx.Linear(inputs, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return self.last(jax.nn.silu(self.second(jax.nn.silu(self.first(x)))))
