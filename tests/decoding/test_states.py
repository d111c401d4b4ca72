"""Hidden states of the last tokens of texts, against one plain pass over each whole text."""

import numpy as np
import pytest

from adaptive_jax.decoding.states import last_states
from adaptive_jax.lm.model import load_lm

# Where beginnings are long and alike they are computed once: 70 tokens of 6 texts, and 40 of 4 others; the last have none.
SHARED = [(70, (1, 5, 9, 9, 30, 2)), (40, (8, 3, 3, 12)), (0, (6, 45))]


@pytest.mark.parametrize("shared", [SHARED, [(0, (4, 7, 20))]])
def test_states_are_those_of_whole_texts(shared: list[tuple[int, tuple[int, ...]]]) -> None:
    lm, rng = load_lm("tiny"), np.random.default_rng(0)
    texts, counts = [], []
    for length, own in shared:
        begin = rng.integers(5, 60, length).tolist()
        for more in own:
            texts.append([*begin, *rng.integers(5, 60, more).tolist()])
            counts.append(int(rng.integers(1, more + 1)))
    texts.append(texts[0])  # the same text, of which more is asked than is its own
    counts.append(len(texts[0]))
    found = last_states(lm.decoder, texts, counts, rows=4)
    for text, count, states in zip(texts, counts, found, strict=True):
        tokens = np.array([text], np.int32)
        whole = np.asarray(lm(tokens, np.ones_like(tokens, bool))[1])[0]
        np.testing.assert_allclose(states, whole[-count:], atol=2e-4)
