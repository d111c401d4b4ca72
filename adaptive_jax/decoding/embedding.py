"""What a sequence adapter sees of prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.waiting import prefill_batches
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas


def embeddings(
    decoder: Decoder, prompts: Sequence[Sequence[int]], *, rows: int = 128
) -> tuple[Float32[np.ndarray, "prompts width"], Float32[np.ndarray, "prompts width"]]:
    """The last token's hidden state and the prompt's mean one. What prompts start with in common is computed once.

    Args:
        decoder: the language model.
        prompts: lists of token ids.
        rows: prompts that are computed side by side in each replica.
    """
    replicas = Replicas.of(decoder)
    asked = [Prompt(str(index), tuple(ids), budget=1) for index, ids in enumerate(prompts)]
    parts, order = [], []
    for batch in prefill_batches(decoder, replicas, asked, 1, rows, SharedPrefixes(decoder, prompts)):
        found = [replicas.join(x).astype(np.float32) for x in (batch.prefill.last, batch.prefill.mean)]
        places = batch.replicas * (len(found[0]) // replicas.count) + batch.places
        parts.append([x[places] for x in found])
        order.append(batch.completions)
    inverse = np.argsort(np.concatenate(order))
    last, mean = (np.concatenate(part)[inverse] for part in zip(*parts, strict=True))
    return last, mean
