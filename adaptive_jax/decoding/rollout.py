"""Rollouts: prompts in, a `Trajectory` out.

The host's half of the loop: between two chunks it fills the queue that ended completions' rows are given from, and decides
which rows are next. What a chunk has drawn it takes in while the next one is computed.

There are several rings of cache columns (`adaptive_jax.decoding.rings`). Completions begin in the shortest; one that outgrows
its ring is copied into the next. A ring waits until (nearly) all its rows have a completion, and a shorter one goes on
meanwhile: so all rows of each decode. Short rings decode together. When no more completions wait for the shortest, one after
another runs dry, the shortest first.

Where the model's parameters were put on several devices, rows are split over them (`adaptive_jax.parallel.Replicas`). A
completion stays in the replica in which its prompt was prefilled, so nothing is sent between devices.
"""

import reprlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Key

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt, check_prompts
from adaptive_jax.decoding.queue import admit
from adaptive_jax.decoding.rings import ALMOST, FEW_ROWS, TOGETHER, Ring, Shape, ring_shapes
from adaptive_jax.decoding.rows import move
from adaptive_jax.decoding.trajectory import Drawn, Trajectory, TrajectoryBuilder
from adaptive_jax.decoding.waiting import Line
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas

WORTHWHILE = 128  # steps that must be left to take fewer rows: another number of rows is another compilation

OnEnded = Callable[[Int[np.ndarray, " ended"], Int32[np.ndarray, "ended steps"], Int32[np.ndarray, " ended"]], None]


def rollout(
    decoder: Decoder,
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    key: Key[Array, ""],
    stop_ids: Sequence[int],
    completions: int = 1,
    rows: int = 128,
    chunk: int = 16,
    max_positions: int | None = None,
    prompt_width: int = 1,
    prefixes: SharedPrefixes | None = None,
    logprobs: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_ended: OnEnded | None = None,
) -> Trajectory:
    """Decode `completions` completions of every prompt under a policy.

    A completion's draws depend on `key`, its prompt's id, its index and its step only: not on the rows, the chunk,
    the order of the prompts or what else is in the batch. What prompts start with in common is computed once.

    Args:
        decoder: the frozen language model; it decodes on the devices that its parameters are on.
        policy: chooses the sampling action of each completion or step.
        prompts: N / G of them.
        key: typed PRNG key.
        stop_ids: tokens that end a completion.
        completions: G, per prompt; also the sampling budget B that the policy sees.
        rows: how many completions are decoded side by side, rounded up to a multiple of the devices. Their cache is the
            largest thing in memory (`adaptive_jax.decoding.memory` counts it).
        chunk: most steps between two looks of the host, in which it fills the queue of completions that wait; it looks sooner
            where that pays (see `loop.decode_chunk`).
        max_positions: the model's context, in tokens.
        prompt_width: tokens that the cache leaves for a prompt at least; rollouts with one such width (that of the longest
            prompt of all) and one largest budget share the compilation of the loop.
        prefixes: what prompts start with, where several rollouts share it; None to look for it in these prompts.
        logprobs: whether the trajectory has the tokens' log-probabilities; what is drawn is the same.
        on_progress: called between two chunks, with the number of completions that have ended.
        on_ended: called once with each of those that have ended, a chunk later: their numbers (completion n is number n % G of
            prompt n // G), tokens and lengths.

    Raises:
        ValueError: no prompt, rows, chunk or completions below 1, or a prompt that `check_prompts` refuses.
        FloatingPointError: the model's logits were not finite where a completion drew a token.
    """
    if not prompts:
        raise ValueError("prompts is empty: give at least one prompt")
    for name, value in (("completions", completions), ("rows", rows), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    check_prompts(prompts, max_positions)
    longest = max(prompt_width, *(len(prompt.tokens) for prompt in prompts))
    chunk = min(chunk, max(prompt.budget for prompt in prompts))  # all rows would be dead in the steps beyond
    prefixes = prefixes or SharedPrefixes(decoder, [prompt.tokens for prompt in prompts])
    sizes = completions, rows, chunk, longest
    return _Rollout(decoder, policy, prompts, key, stop_ids, *sizes, prefixes, logprobs, on_progress, on_ended).run()


class _Rollout:
    """One call of `rollout`; completion n is number n % G of prompt n // G."""

    def __init__(
        self,
        decoder: Decoder,
        policy: Policy,
        prompts: Sequence[Prompt],
        key: Key[Array, ""],
        stop_ids: Sequence[int],
        completions: int,
        rows: int,
        chunk: int,
        longest: int,
        prefixes: SharedPrefixes,
        logprobs: bool,
        on_progress: Callable[[int], None] | None,
        on_ended: OnEnded | None,
    ):
        self._replicas = replicas = Replicas.of(decoder)
        self._decoder, self._chunk, self._prompts, self._logprobs = decoder, chunk, prompts, logprobs
        self._on_progress, self._on_ended = on_progress, on_ended
        self._drawn: tuple[loop.StepOutput, Drawn, np.ndarray] | None = None  # of a chunk, and the completions that ended in it
        stops = jnp.asarray(stop_ids, jnp.int32)
        self._policy, self._key, self._stop_ids = replicas.replicate((policy, key, stops))
        rows = -(-min(rows, len(prompts) * completions) // replicas.count)  # of each replica
        self._shapes = ring_shapes(longest, max(prompt.budget for prompt in prompts), chunk, rows, decoder.reach)
        shortest = self._shapes[0]
        self._line = Line(decoder, self._policy, replicas, prompts, completions, self._key, shortest, longest, prefixes)
        self._harvest = TrajectoryBuilder(self._line.budgets, stop_ids, logprobs)
        self._rings: list[Ring | None] = [None] * len(self._shapes)  # each is made for its first completion

    def run(self) -> Trajectory:
        """Decode to the end."""
        ended = 0
        while True:
            self._move_up()
            self._line.fill()
            self._begin()
            rings = [self._ring(place) for place in self._next_rings()]
            if not rings:
                self._take_in()
                return self._harvest.build(self._line.prompt_tokens)
            shortest = rings[0] is self._rings[0]
            queue, waiting = (self._line.queue, self._line.waiting()) if shortest else (None, self._line.nobody())
            states, waiting, outputs = self._replicas.call(
                loop.decode_chunk,
                (self._decoder, self._policy, self._stop_ids),
                (tuple(ring.state for ring in rings), queue, waiting),
                donate=1,
                sizes=tuple(ring.shape.size for ring in rings),
                chunk=self._chunk,
                logprobs=self._logprobs,
            )
            self._take_in()  # what the chunk before has drawn, while this one is computed
            alive, completion, step = (self._replicas.join(x, 1) for x in (outputs.alive, outputs.completion, outputs.step))
            columns = self._replicas.count * sum(ring.shape.rows * ring.shape.size for ring in rings)
            drawn = self._harvest.count(alive, completion, step, columns)
            if shortest:
                self._line.left(waiting)
            for ring, state in zip(rings, states, strict=True):
                ring.state = state
                ring.look()
            over = np.setdiff1d(drawn.completion, np.concatenate([ring.completion for ring in rings]))
            self._drawn = outputs, drawn, over
            ended += len(over)
            if self._on_progress is not None:
                self._on_progress(ended)

    def _take_in(self) -> None:
        """Store what the last chunk has drawn, if that is not done."""
        if self._drawn is None:
            return
        outputs, drawn, over = self._drawn
        self._drawn = None
        outputs = jax.tree.map(lambda x: self._replicas.join(x, 1), outputs)
        self._check_finite(outputs, drawn)
        self._harvest.store(outputs, drawn)
        if self._on_ended is not None and len(over):
            self._on_ended(over, *self._harvest.completions(over))

    def _check_finite(self, outputs: loop.StepOutput, drawn: Drawn) -> None:
        """Raises FloatingPointError where a completion drew from logits that are not finite (see `summary`)."""
        unsound = np.flatnonzero(np.isnan(outputs.entropy[drawn.steps, drawn.rows]))
        if len(unsound):
            completion, place = drawn.completion[unsound[0]], drawn.place[unsound[0]]
            prompt = self._prompts[completion // (len(self._harvest.lengths) // len(self._prompts))]
            raise FloatingPointError(
                f"the model's logits are not finite at new token {place + 1} of a completion of {reprlib.repr(prompt.id)}: "
                f"look for damaged weights, or for numbers too large for {self._line.hidden.dtype.name}"
            )

    def _begin(self) -> None:
        """Completions of the queue get rows at once where there is one for each of them; then it is filled again."""
        while (queued := self._line.queued).any():
            ring = self._ring(0)
            if not ((queued > 0) & (queued <= ring.free)).any():
                return
            waiting = self._line.waiting()
            ring.state = self._replicas.call(admit, (self._decoder,), (ring.state, self._line.queue, waiting), donate=1)
            self._line.took(np.minimum(queued, ring.free))
            ring.look()
            self._line.fill()

    def _move_up(self) -> None:
        """Completions that need more columns than their rings have go to the next ones, where those have free rows."""
        for place in reversed(range(len(self._rings))):  # the longest first: that frees rows for those from below
            if (ring := self._rings[place]) is None:
                continue
            outgrown = self._outgrown(ring)
            if len(outgrown):
                self._move(ring, self._ring(place + 1), outgrown)

    def _outgrown(self, ring: Ring) -> Int[np.ndarray, " rows"]:
        """Rows whose completions need more columns for another chunk."""
        rows = np.flatnonzero(ring.busy)
        completions = ring.completion[rows]
        budgets = np.minimum(self._harvest.lengths[completions] + self._chunk, self._line.budgets[completions])
        needed = np.minimum(self._line.prompt_lengths[completions] + budgets, self._shapes[-1].size)
        return rows[needed > ring.shape.size]

    def _next_rings(self) -> list[int]:
        """The rings that the next chunk is for; none when all is done.

        The longest one that is full, and with it the shortest, if that is full and none of its completions waits for a longer
        one. With no full one, the shortest that works and the next one. Of two, both are short enough to decode together.
        """
        queued = self._line.queued
        working = [place for place, ring in enumerate(self._rings) if ring is not None and ring.busy.any()]
        if queued.any():
            working = [0, *(place for place in working if place)]
        if not working:
            return []

        def spare(place: int) -> Int[np.ndarray, " replicas"] | int:
            """Free rows that a full ring may have."""
            shape = self._ring(place).shape
            return queued if place == 0 else shape.rows // ALMOST if shape.size <= TOGETHER else 0

        full = [place for place in working if (self._ring(place).free <= spare(place)).any()]
        if not full:
            place = self._run_dry(working[0])
            pair = [place, *(other for other in working if other > place)][:2]
        else:
            place = full[-1]
            pair = sorted({full[0], place}) if full[0] == 0 and not len(self._outgrown(self._ring(0))) else [place]
        return pair if self._shapes[pair[-1]].size <= TOGETHER else [place]

    def _run_dry(self, place: int) -> int:
        """The ring for what is left in this one; nothing comes into it any more, and shorter ones are empty."""
        self._rings[:place] = [None] * place  # their memory
        ring = self._ring(place)
        rows = np.flatnonzero(ring.busy)
        busy, count = ring.per_replica(rows), ring.shape.rows
        most = max(map(len, busy))
        if 2 * most > count:
            return place
        above = self._rings[place + 1] if place + 1 < len(self._rings) else None
        if above and above.busy.any() and all(len(own) <= free for own, free in zip(busy, above.free, strict=True)):
            self._move(ring, above, rows)
            return self._run_dry(place + 1)
        own = ring.completion[rows]
        room = self._line.budgets[own]
        if ring.shape.size < self._shapes[-1].size:
            room = np.minimum(room, ring.shape.size - self._line.prompt_lengths[own])
        if np.max(room - self._harvest.lengths[own]) < WORTHWHILE:
            return place
        while count >= 2 * max(most, FEW_ROWS):
            count //= 2
        if count < ring.shape.rows:
            fewer = self._new_ring(Shape(count, ring.shape.size))
            self._move(ring, fewer, rows)
            self._rings[place] = fewer
        return place

    def _ring(self, place: int) -> Ring:
        """One of the rings; made if there is none."""
        if (ring := self._rings[place]) is None:
            self._rings[place] = ring = self._new_ring(self._shapes[place])
        return ring

    def _new_ring(self, shape: Shape) -> Ring:
        return Ring(self._decoder, self._replicas, self._key, self._line.hidden, shape)

    def _move(self, ring: Ring, target: Ring, rows: Int[np.ndarray, " moved"]) -> None:
        """Completions go on in the free rows of another ring, as many as there are in each replica."""
        source = np.full(len(target.completion), -1, np.int32)
        for own, free in zip(ring.per_replica(rows), target.per_replica(np.flatnonzero(~target.busy)), strict=True):
            count = min(len(own), len(free))
            target.completion[free[:count]] = ring.completion[own[:count]]
            ring.completion[own[:count]] = -1
            source[free[:count]] = own[:count] % ring.shape.rows
        if (source >= 0).any():
            states = ring.state, target.state, self._replicas.split(source)
            ring.state, target.state = self._replicas.call(move, (self._decoder,), states, donate=2)
