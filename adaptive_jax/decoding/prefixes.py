"""What many prompts of a rollout start with, such as a system prompt or solved examples: computed once, not once per prompt.

Nobody has to say what is shared: prompts are sorted, and runs of neighbours that begin alike are found. Prompts of several
tasks, each with its own examples, have several prefixes; the prompts of one batch may have different ones, or none.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from adaptive_jax.decoding import loop
from adaptive_jax.lm.decoder import Decoder, Prefixes
from adaptive_jax.parallel import Replicas

BUCKET = 32  # ring sizes are rounded up to it, prompt widths to it times a power of two, so that few shapes are compiled
OWN_BUCKET = 8  # the same for what follows a shared prefix, which is often a line: wider, most of its columns were padding
SHORTEST = BUCKET  # a shorter prefix saves no column
MOST = 8  # prefixes at a time: those that save most; their entries stay in memory

Tokens = tuple[int, ...]


def prefill_width(count: int, bucket: int = BUCKET) -> int:
    """Columns of a prefill for prompts of up to `count` tokens: `bucket` times a power of two."""
    return bucket << max(-(-count // bucket) - 1, 0).bit_length()


def common_prefixes(prompts: Sequence[Sequence[int]]) -> list[Tokens]:
    """At most `MOST` token sequences that several prompts start with, chosen so that much is computed once only.

    Each is a proper prefix of its prompts: the last token of a prompt is always computed. Of two nested ones, the longer that
    few share and the shorter that many do, the choice is that which saves more tokens.
    """
    texts = sorted(tuple(prompt) for prompt in prompts)
    shared = [_alike(a, b) for a, b in itertools.pairwise(texts)]
    whole = _Run(0, 0)
    stack = [whole]  # runs that go on: each is a part of the one before it, and shares more
    for place, now in enumerate([*(count if count >= SHORTEST else 0 for count in shared), 0]):
        start, part = place, None
        while now < stack[-1].shared:
            part = stack.pop()
            start = part.start
            part.close(place)
            if now <= stack[-1].shared:
                stack[-1].parts.append(part)
                part = None
        if now > stack[-1].shared:
            stack.append(_Run(start, now, [] if part is None else [part]))
    picks = sorted((pick for run in whole.parts for pick in run.picks), key=lambda pick: -pick.saved)
    return [texts[pick.start][: pick.shared] for pick in picks[:MOST]]


def _alike(a: Tokens, b: Tokens) -> int:
    """How many tokens two prompts can share, the last one of each left out."""
    most = min(len(a), len(b)) - 1
    differs = np.flatnonzero(np.asarray(a[:most]) != np.asarray(b[:most]))
    return int(differs[0]) if len(differs) else most


class _Pick(NamedTuple):
    """A prefix to compute once."""

    saved: int  # tokens that are not computed then
    start: int  # the place of a prompt that has it
    shared: int  # its tokens


@dataclass
class _Run:
    """Neighbours among sorted prompts, from place `start` on, with `shared` tokens in common."""

    start: int
    shared: int
    parts: list["_Run"] = field(default_factory=list)  # shorter runs inside, which share more
    picks: list[_Pick] = field(default_factory=list)

    def close(self, last: int) -> None:
        """The prompt at place `last` is the run's last: one prefix for all of them, or those of its parts."""
        inner = [pick for run in self.parts for pick in run.picks]
        saved = (last - self.start) * self.shared
        self.picks = inner if sum(pick.saved for pick in inner) > saved else [_Pick(saved, self.start, self.shared)]
        self.parts = []


class Padded(NamedTuple):
    """Texts side by side, their last tokens in the last column, as `Decoder.prefill` and its like take them.

    Attributes:
        columns: of whole texts.
        tokens: what is to be computed: of texts that start with a prefix, the rest.
        lengths: of whole texts.
        source: the prefix that each starts with; -1 for none.
    """

    columns: int
    tokens: Int32[np.ndarray, "rows own"]
    lengths: Int32[np.ndarray, " rows"]
    source: Int32[np.ndarray, " rows"]

    @property
    def whole(self) -> bool:
        """Whether they are computed from their first tokens on, as no column would be saved otherwise."""
        return self.tokens.shape[1] == self.columns


class SharedPrefixes:
    """Prefixes, and their entries on the devices: computed at their first use, and kept.

    Args:
        decoder: the language model.
        prompts: what they are looked for in.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]]):
        self._decoder, self._replicas = decoder, Replicas.of(decoder)
        self.tokens = common_prefixes(prompts)
        self._computed: Prefixes | None = None
        self.prompt_tokens = 0  # computed so far

    def of(self, prompt: Sequence[int], last: int = 1) -> int:
        """Which one a prompt starts with, the longest that leaves its last tokens, so many, out; -1 for none."""
        most = len(prompt) - last
        fitting = [i for i, own in enumerate(self.tokens) if len(own) <= most and own == tuple(prompt[: len(own)])]
        return max(fitting, key=lambda i: len(self.tokens[i]), default=-1)

    def own(self, prompt: Sequence[int], last: int = 1) -> int:
        """Tokens of a prompt behind its prefix, which leaves its last ones out."""
        source = self.of(prompt, last)
        return len(prompt) - (len(self.tokens[source]) if source >= 0 else 0)

    def padded(
        self, texts: Sequence[Sequence[int]], rows: Sequence[int], count: int, last: Sequence[int] | None = None
    ) -> Padded:
        """Texts, each in its own of `count` rows; the other rows are texts of one token, which nobody reads.

        Args:
            last: how many last tokens of each text are computed in any case; one if not given.
        """
        asked = [1] * len(texts) if last is None else last
        sources = list(map(self.of, texts, asked))
        columns = width = prefill_width(max(map(len, texts)))
        if max(sources) >= 0:
            width = min(columns, prefill_width(max(map(self.own, texts, asked)), OWN_BUCKET))
        tokens, lengths = np.zeros((count, width), np.int32), np.ones(count, np.int32)
        source = np.full(count, -1, np.int32)
        for row, text, own in zip(rows, texts, sources, strict=True):
            end = text[-width:]
            tokens[row, width - len(end) :], lengths[row], source[row] = end, len(text), own
        return Padded(columns, tokens, lengths, source)

    def saves(self, prompts: Sequence[Sequence[int]]) -> int:
        """Tokens of prompts that need not be computed, less those that are computed for it."""
        found = [self.of(prompt) for prompt in prompts]
        cost = sum(map(len, self.tokens)) if self._computed is None else 0
        return sum(len(self.tokens[i]) for i in found if i >= 0) - cost

    def computed(self) -> Prefixes:
        """Their entries, in every replica."""
        if self._computed is None:
            count = 1 << (len(self.tokens) - 1).bit_length()
            columns = prefill_width(max(map(len, self.tokens)))
            tokens, lengths = np.zeros((count, columns), np.int32), np.ones(count, np.int32)
            for row, own in enumerate(self.tokens):
                tokens[row, columns - len(own) :], lengths[row] = own, len(own)
            everywhere = [np.tile(x, (self._replicas.count,) + (1,) * (x.ndim - 1)) for x in (tokens, lengths)]
            self._computed = self._replicas.call(loop.prefix, (self._decoder,), tuple(map(self._replicas.split, everywhere)))
            self.prompt_tokens += self._replicas.count * sum(map(len, self.tokens))
        return self._computed
