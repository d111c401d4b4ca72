"""Hidden states at the last tokens of texts, in one forward pass; what texts start with in common is computed once."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.prefixes import OWN_BUCKET, SharedPrefixes, prefill_width
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
    source = np.array([prefixes.of(begin) for begin in begins], np.int32)
    own = [len(text) - (len(prefixes.tokens[s]) if s >= 0 else 0) for text, s in zip(texts, source, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: own[i])
    found: list[np.ndarray] = [np.zeros(0)] * len(texts)
    count = replicas.count * min(rows, -(-len(texts) // replicas.count))
    for first in range(0, len(order), count):
        members = order[first : first + count]
        columns = prefill_width(max(len(texts[i]) for i in members))
        shared = any(source[i] >= 0 for i in members)
        width = min(columns, prefill_width(max(own[i] for i in members), OWN_BUCKET)) if shared else columns
        tokens, lengths = np.zeros((count, width), np.int32), np.ones(count, np.int32)
        starts_with = np.full(count, -1, np.int32)
        for row, i in enumerate(members):
            last = texts[i][-width:]
            tokens[row, width - len(last) :], lengths[row], starts_with[row] = last, len(texts[i]), source[i]
        split = tuple(map(replicas.split, (starts_with, tokens, lengths)))
        if width == columns:
            hidden = replicas.call(loop.prefix, (decoder,), split[1:]).hidden
        else:
            hidden = replicas.call(_hidden_after, (decoder,), (prefixes.computed(), *split), columns=columns)
        joined = replicas.join(hidden)
        for row, i in enumerate(members):
            found[i] = joined[row, width - counts[i] :].astype(np.float32)
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
