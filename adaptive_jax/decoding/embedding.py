"""What a sequence adapter sees of prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from adaptive_jax.decoding import loop
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas


def embeddings(
    decoder: Decoder, prompts: Sequence[Sequence[int]], *, width: int | None = None, rows: int = 128
) -> tuple[Float32[np.ndarray, "prompts width"], Float32[np.ndarray, "prompts width"]]:
    """The last token's hidden state and the prompt's mean one, computed `rows` prompts at a time.

    Args:
        decoder: the language model.
        prompts: lists of token ids.
        width: columns of the prefill, each number of which is another compilation; the longest prompt's tokens if None.
        rows: prompts that are computed side by side, rounded up to a multiple of the devices.
    """
    replicas = Replicas.of(decoder)
    width = max(map(len, prompts)) if width is None else width
    rows = -(-min(rows, len(prompts)) // replicas.count) * replicas.count
    parts = []
    for start in range(0, len(prompts), rows):
        members = prompts[start : start + rows]
        tokens, lengths = np.zeros((rows, width), np.int32), np.ones(rows, np.int32)
        for row, ids in enumerate(members):
            tokens[row, width - len(ids) :] = ids
            lengths[row] = len(ids)
        computed = replicas.call(loop.prefill, (decoder,), (replicas.split(tokens), replicas.split(lengths)))
        parts.append([replicas.join(x).astype(np.float32)[: len(members)] for x in (computed.last, computed.mean)])
    last, mean = (np.concatenate(part) for part in zip(*parts, strict=True))
    return last, mean
