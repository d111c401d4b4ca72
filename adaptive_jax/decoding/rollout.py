"""Rollouts: prompts in, a `Trajectory` out.

The host's half of the loop: between two chunks it gives the rows of ended completions to waiting ones, and decides how long the
ring of cache columns is. What a chunk has drawn it takes in while the next one is computed.

Attention costs by the column, and most completions are much shorter than the longest. So a rollout begins with a short ring.
A completion that outgrows it is suspended: its entries are copied to a swap space, its row goes to another. When that is full,
or little else is left, all go over to a ring that holds the longest completion; and back, when few rows need it any more.

Where the model's parameters were put on several devices, rows are split over them (`adaptive_jax.parallel.Replicas`). A
completion stays in the replica in which its prompt was prefilled, so nothing is sent between devices.
"""

import reprlib
from collections import deque
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes, prefill_width
from adaptive_jax.decoding.prompt import Prompt, check_prompts
from adaptive_jax.decoding.trajectory import Drawn, Trajectory, TrajectoryBuilder
from adaptive_jax.decoding.waiting import Admissions, Batch, SwapSpace, prefill_batches, replica_of, round_up
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas

SHORT_SHARE = 4  # the short ring leaves a completion a quarter of the longest budget; there is none
SHORT_BUDGET = 64  # where that would be fewer tokens than this
WORTH_CHANGING = 0.6  # and none where it is more than this share of the long one: prompts are most of it
FEW_ROWS = 16  # with fewer rows a replica there is nothing to gain from fewer still
WORTHWHILE = 128  # steps that must be left to take fewer rows: another number of rows is another compilation


def rollout(
    decoder: Decoder,
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    key: jax.Array,
    stop_ids: Sequence[int],
    completions: int = 1,
    rows: int = 128,
    chunk: int = 16,
    max_positions: int | None = None,
    prompt_width: int = 1,
    prefixes: SharedPrefixes | None = None,
    logprobs: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_ended: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None = None,
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
            largest thing in memory: rows times the columns of the longest prompt and budget, and when the ring grows for a
            moment that and twice the short ring.
        chunk: most steps between two looks of the host, in which finished rows give their place to waiting completions; it
            looks sooner where that pays (see `loop.decode_chunk`).
        max_positions: the model's context, in tokens.
        prompt_width: tokens that the cache leaves for a prompt at least; rollouts with one such width (that of the longest
            prompt of all) and one largest budget share the compilation of the loop.
        prefixes: what prompts start with, where several rollouts share it; None to look for it in these prompts.
        logprobs: whether the trajectory has the tokens' log-probabilities; what is drawn is the same.
        on_progress: called between two chunks, with the number of completions that have ended.
        on_ended: called once with each of those that have ended, a chunk later: their numbers, int [M] (completion n is number
            n % G of prompt n // G), tokens, int32 [M, T], and lengths, int32 [M].

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


def ring_sizes(longest: int, budget: int, chunk: int) -> tuple[int, int]:
    """Columns of the ring that a rollout begins with, and of the one that holds the longest completion.

    Args:
        longest: tokens of the longest prompt.
        budget: the largest one.
        chunk: steps between two looks of the host.
    """
    width, part = prefill_width(longest), max(budget // SHORT_SHARE, chunk)
    short, long = round_up(width + part), round_up(width + budget)
    return (short if part >= SHORT_BUDGET and short <= WORTH_CHANGING * long else long), long


class _Rollout:
    """One call of `rollout`; completion n is number n % G of prompt n // G."""

    _state: loop.DecodeState

    def __init__(
        self,
        decoder: Decoder,
        policy: Policy,
        prompts: Sequence[Prompt],
        key: jax.Array,
        stop_ids: Sequence[int],
        completions: int,
        rows: int,
        chunk: int,
        longest: int,
        prefixes: SharedPrefixes,
        logprobs: bool,
        on_progress: Callable[[int], None] | None,
        on_ended: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None,
    ):
        self._replicas = replicas = Replicas.of(decoder)
        self._decoder, self._chunk, self._prompts, self._logprobs = decoder, chunk, prompts, logprobs
        self._on_progress, self._on_ended = on_progress, on_ended
        self._drawn: tuple[loop.StepOutput, Drawn, np.ndarray] | None = None  # of a chunk, and the completions that ended in it
        stops = jnp.asarray(stop_ids, jnp.int32)
        self._policy, self._key, self._stop_ids = replicas.replicate((policy, key, stops))
        self._admissions = Admissions(replicas, prompts, completions, key)
        self._harvest = TrajectoryBuilder(self._admissions.budgets, stop_ids, logprobs)
        self._unstarted = len(prompts) * completions  # completions that have had no row yet
        rows = -(-min(rows, self._unstarted) // replicas.count)  # of each replica
        self._prefill_batches = prefill_batches(decoder, replicas, prompts, completions, -(-rows // completions), prefixes)
        self._started: deque[Batch] = deque()  # batches of which some completions wait
        self._prefill_next()
        last = self._started[0].prefill.last
        self._hidden = last[:1] if replicas.mesh is None else last[:, :1]  # a model for the shape of hidden states
        self._resumable: deque[Batch] = deque()  # suspended completions that fit the ring
        self._swap_space: SwapSpace | None = None  # those that have outgrown it
        self._parked: list[Batch] = []  # those that were too long for it at its start
        self._short, self._long = ring_sizes(longest, max(prompt.budget for prompt in prompts), chunk)
        self._start(rows, self._short)

    def run(self) -> Trajectory:
        """Decode to the end."""
        ended = 0
        while True:
            self._suspend_outgrown()
            self._fill()
            if (layout := self._better_layout()) is not None:
                self._move(*layout)
                self._fill()
            if not self._busy.any():
                self._take_in()
                return self._harvest.build()
            self._state, outputs = self._replicas.call(
                loop.decode_chunk,
                (self._decoder, self._policy, self._stop_ids),
                (self._state, self._waiting()),
                donate=1,
                size=self._size,
                chunk=self._chunk,
                logprobs=self._logprobs,
            )
            self._take_in()  # what the chunk before has drawn, while this one is computed
            drawn = self._harvest.count(self._replicas.join(outputs.alive, 1), self._row, self._size)
            over = np.flatnonzero(self._busy & ~self._replicas.join(self._state.alive))
            self._drawn = outputs, drawn, self._row[over]
            self._row[over] = -1
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

    def _waiting(self) -> np.ndarray:
        """int32 [replicas], how many completions each replica has for rows that fall free; a scalar for one replica."""
        count, known = self._replicas.count, [*self._started, *self._resumable]
        later = self._unstarted - sum(len(batch.completions) for batch in self._started)  # not prefilled yet
        waiting = sum((batch.per_replica(count) for batch in known), np.full(count, later // count)).astype(np.int32)
        return waiting if self._replicas.mesh is not None else waiting[0]

    def _check_finite(self, outputs: loop.StepOutput, drawn: Drawn) -> None:
        """Raises FloatingPointError where a completion drew from logits that are not finite (see `summary`)."""
        unsound = np.flatnonzero(np.isnan(outputs.entropy[drawn.steps, drawn.rows]))
        if len(unsound):
            completion, place = drawn.completion[unsound[0]], drawn.place[unsound[0]]
            prompt = self._prompts[completion // (len(self._harvest.lengths) // len(self._prompts))]
            raise FloatingPointError(
                f"the model's logits are not finite at new token {place + 1} of a completion of {reprlib.repr(prompt.id)}: "
                f"look for damaged weights, or for numbers too large for {self._hidden.dtype.name}"
            )

    def _start(self, rows: int, size: int) -> None:
        """`rows` rows in each replica, without completions, over a ring of `size` columns."""
        self._size = size
        self._row = np.full(rows * self._replicas.count, -1)  # the completion that each row works on
        self._state = self._replicas.call(loop.empty_state, (self._decoder, self._key), (self._hidden,), rows=rows, size=size)

    @property
    def _busy(self) -> np.ndarray:
        return self._row >= 0

    def _needs(self, completions: np.ndarray) -> np.ndarray:
        """int [M], columns that completions int [M] need for another chunk."""
        budgets = np.minimum(self._harvest.lengths[completions] + self._chunk, self._admissions.budgets[completions])
        return self._admissions.prompt_lengths[completions] + budgets

    def _fill(self) -> None:
        """Give the free rows to waiting completions of their replicas: suspended ones first."""
        while any(map(len, free := self._free())):
            if not self._admit(self._resumable, free):
                while not self._admit(self._started, free):
                    if not self._prefill_next():
                        return

    def _free(self) -> list[np.ndarray]:
        """The free rows of each replica."""
        replicas = np.split(np.arange(len(self._row)), self._replicas.count)
        return [rows[self._row[rows] < 0] for rows in replicas]

    def _admit(self, waiting: deque[Batch], free: list[np.ndarray]) -> bool:
        """Give rows to the completions of one of the batches that wait; False if there's a row for none of them."""
        for place, batch in enumerate(waiting):
            taken, rows, rest = batch.take(free)
            if not len(rows):
                continue
            waiting[place] = rest
            if not len(rest.completions):
                del waiting[place]  # what it was prefilled into is large
            self._unstarted -= len(rows) if waiting is self._started else 0
            self._row[rows] = taken.completions
            admission = self._admissions.of(taken, rows, len(self._row), self._harvest)
            self._state = self._replicas.call(
                loop.admit, (self._decoder, self._policy), (self._state, batch.prefill, admission), donate=1
            )
            return True
        return False

    def _prefill_next(self) -> bool:
        """Prefill more prompts; False if there are no more."""
        batch = next(self._prefill_batches, None)
        if batch is not None:
            self._harvest.prompt_tokens += batch.prompt_tokens
            self._started.append(batch)
        return batch is not None

    def _suspend_outgrown(self) -> None:
        """Take completions that need more columns than the ring has out of their rows; a longer ring if there are too many."""
        outgrown = np.flatnonzero(self._busy)
        outgrown = outgrown[self._needs(self._row[outgrown]) > self._size]
        if not len(outgrown):
            return
        if self._swap_space is None:
            self._swap_space = SwapSpace(self._decoder, self._replicas, self._hidden, self._rows, self._size)
        if self._swap_space.has_room(self._replica(outgrown)):
            self._suspend(outgrown, self._swap_space)
        else:
            self._move(self._rows, self._long)

    def _suspend(self, rows: np.ndarray, swap: SwapSpace) -> None:
        self._take_in()  # `Admissions.of` will be asked for their last tokens
        completions = self._row[rows]
        self._admissions.remember(completions, self._replicas.join(self._state.sequence_action)[rows])
        self._state = swap.add(self._state, rows, completions)
        self._row[rows] = -1

    def _better_layout(self) -> tuple[int, int] | None:
        """Rows of a replica and columns of a ring that suits what is left better, or None. Called when rows are filled."""
        rows, active = self._rows, self._row[self._busy]
        busy = np.bincount(self._replica(np.flatnonzero(self._busy)), minlength=self._replicas.count)
        suspended = sum((batch.per_replica(self._replicas.count) for batch in self._parked), np.zeros_like(busy))
        if self._swap_space is not None:
            suspended = suspended + self._swap_space.batch().per_replica(self._replicas.count)
        idle = 4 * busy.sum() <= 3 * len(self._row)  # nothing else waits, or in a few replicas only
        if suspended.any() and idle:
            while rows >= FEW_ROWS and 4 * (busy + suspended).max() <= rows:
                rows //= 4
            return rows, self._long
        left = self._admissions.budgets[active] - self._harvest.lengths[active]
        if rows >= FEW_ROWS and 4 * busy.max() <= rows and left.max(initial=0) >= WORTHWHILE:
            return rows // 4, self._size
        few_long = 8 * np.sum(self._needs(active) > self._short) <= len(self._row)
        if self._size > self._short and few_long and self._unstarted >= len(self._row) and not (self._resumable or idle):
            return rows, self._short
        return None

    @property
    def _rows(self) -> int:
        """Rows of a replica."""
        return len(self._row) // self._replicas.count

    def _replica(self, rows: np.ndarray) -> np.ndarray:
        return replica_of(rows, len(self._row), self._replicas)

    def _move(self, rows: int, size: int) -> None:
        """Go on with `rows` rows in each replica over a ring of `size` columns; completions that do not fit are suspended."""
        active = np.flatnonzero(self._busy)
        fits = self._needs(self._row[active]) <= size
        parked, self._parked = self._parked, []
        if self._swap_space is not None:
            parked.append(self._swap_space.batch())
            self._swap_space = None
        if fits.any():
            moved = self._shelved(active[fits], self._rows, min(size, self._size))
            parked.append(moved)
        self._resumable.extend(parked)
        if not fits.all():
            left = active[~fits]
            places, most = self._rows // 8, int(np.bincount(self._replica(left)).max())
            if (
                most > places
            ):  # a replica may have more than its part; as wide as the long ring, room for all would be another one
                places = min(1 << (most - 1).bit_length(), self._rows)
            self._parked.append(self._shelved(left, places, self._size))
        del self._state  # before the next one needs the memory
        self._start(rows, size)

    def _shelved(self, rows: np.ndarray, places: int, width: int) -> Batch:
        swap = SwapSpace(self._decoder, self._replicas, self._hidden, places, width)
        self._suspend(rows, swap)
        return swap.batch()
