"""Hidden states at the last tokens of texts, in one forward pass; what texts start with in common is computed once."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.lm.decoder import Prefixes, TransformerDecoder
from adaptive_jax.parallel import Replicas


def last_states(
    decoder: TransformerDecoder, texts: Sequence[Sequence[int]], counts: Sequence[int], *, rows: int = 128
) -> list[Float32[np.ndarray, "_ width"]]:
    """Hidden states after the final norm, of the last tokens of texts: each predicts the token behind its own.

    Args:
        decoder: the language model.
        texts: lists of token ids.
        counts: how many of its last tokens are asked for, of each text, 1 to all.
        rows: texts that are computed side by side in each replica.
    """
    replicas = Replicas.of(decoder)
    begins = [tuple(text[: len(text) - count + 1]) for text, count in zip(texts, counts, strict=True)]
    prefixes = SharedPrefixes(decoder, begins)
    order = sorted(range(len(texts)), key=lambda i: prefixes.own(texts[i], counts[i]))
    found: list[np.ndarray] = [np.zeros(0)] * len(texts)
    count = replicas.count * min(rows, -(-len(texts) // replicas.count))
    for first in range(0, len(order), count):
        members = order[first : first + count]
        asked = [counts[i] for i in members]
        padded = prefixes.padded([texts[i] for i in members], range(len(members)), count, asked)
        split = tuple(map(replicas.split, (padded.source, padded.tokens, padded.lengths)))
        if padded.whole:
            hidden = replicas.call(loop.prefix, (decoder,), split[1:]).hidden
        else:
            hidden = replicas.call(_hidden_after, (decoder,), (prefixes.computed(), *split), columns=padded.columns)
        for i, own in zip(members, replicas.join(hidden), strict=False):
            found[i] = own[len(own) - counts[i] :].astype(np.float32)
    return found


@functools.partial(jax.jit, static_argnames="columns")
def _hidden_after(
    decoder: TransformerDecoder,
    prefixes: Prefixes,
    source: Int32[Array, " texts"],
    tokens: Int32[Array, "texts own"],
    lengths: Int32[Array, " texts"],
    *,
    columns: int,
) -> Float[Array, "texts own width"]:
    return decoder.hidden_after(prefixes, source, tokens, lengths, columns)
