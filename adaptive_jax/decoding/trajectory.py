"""What a rollout leaves behind, on the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from adaptive_jax.decoding.loop import StepOutput


@dataclass(frozen=True)
class Trajectory:
    """Completions of at most so many new tokens, some of whose steps were decisions.

    Completion n is number n % G of prompt n // G, each having G. Behind a completion's end there are zeros. What is as
    wide as the hidden state is kept for decisions only, so memory grows with them and not with all steps.

    Attributes:
        tokens: the token that ended a completion included.
        lengths: new tokens.
        stopped: ended by a stop token; otherwise truncated at the budget.
        budgets: token budget b.
        actions: index into the action space.
        decisions: the steps that count in the gradient.
        entropy: of the next-token distribution before the action, in nats.
        top_probability: before the action.
        features: what the policy chose from at each decision, in the order of `np.nonzero(decisions)`.
        row_steps: how many row-steps the loop computed for these completions, idle ones included.
        columns: how many cache columns attention read in these row-steps: each reads the whole ring.
        prompt_tokens: how many prompt tokens were computed.
        logprobs, model_logprobs: of each token, in nats: in the distribution that it was drawn from, after
            temperature and filters, and in the model's, before them. None where they were not asked for.
    """

    tokens: Int32[np.ndarray, "completions steps"]
    lengths: Int32[np.ndarray, " completions"]
    stopped: Bool[np.ndarray, " completions"]
    budgets: Int32[np.ndarray, " completions"]
    actions: Int32[np.ndarray, "completions steps"]
    decisions: Bool[np.ndarray, "completions steps"]
    entropy: Float32[np.ndarray, "completions steps"]
    top_probability: Float32[np.ndarray, "completions steps"]
    features: Float[np.ndarray, "decisions features"]
    row_steps: int
    columns: int
    prompt_tokens: int
    logprobs: Float32[np.ndarray, "completions steps"] | None = None
    model_logprobs: Float32[np.ndarray, "completions steps"] | None = None

    def new_tokens(self, n: int) -> Int32[np.ndarray, " length"]:
        """The new tokens of completion n."""
        return self.tokens[n, : self.lengths[n]]


class Drawn(NamedTuple):
    """Where a chunk's tokens are, and where they go.

    Attributes:
        steps, rows: their places in the chunk's outputs.
        completion, place: the completions that they are of, and their places in those.
    """

    steps: Int[np.ndarray, " tokens"]
    rows: Int[np.ndarray, " tokens"]
    completion: Int[np.ndarray, " tokens"]
    place: Int[np.ndarray, " tokens"]


class TrajectoryBuilder:
    """Collects the loop's outputs, chunk by chunk, into a `Trajectory`.

    Args:
        budgets: token budgets of the completions; they bound the arrays.
        stop_ids: tokens that end a completion.
        logprobs: whether the outputs have log-probabilities.
    """

    PER_STEP = ("token", "action", "decision", "entropy", "top_probability")
    DTYPES = (np.int32, np.int32, bool, np.float32, np.float32)
    BYTES = sum(np.dtype(dtype).itemsize for dtype in DTYPES)  # of a step

    def __init__(self, budgets: Int32[np.ndarray, " completions"], stop_ids: Sequence[int], logprobs: bool = False):
        shape = (len(budgets), int(budgets.max()))
        self._arrays = {name: np.zeros(shape, dtype) for name, dtype in zip(self.PER_STEP, self.DTYPES, strict=True)}
        if logprobs:
            self._arrays |= {name: np.zeros(shape, np.float32) for name in ("logprob", "model_logprob")}
        self.lengths = np.zeros(shape[0], np.int32)  # new tokens so far
        self._budgets, self._stop_ids = budgets, np.asarray(stop_ids)
        self._features: list[np.ndarray] = []
        self._places: list[np.ndarray] = []  # of the features' decisions in the flattened [N, T]
        self.row_steps = self.columns = 0

    def last_tokens(self, completions: Int[np.ndarray, " asked"]) -> Int32[np.ndarray, " asked"]:
        """The last new tokens of completions that have some."""
        return self._arrays["token"][completions, self.lengths[completions] - 1]

    def completions(
        self, numbers: Int[np.ndarray, " asked"]
    ) -> tuple[Int32[np.ndarray, "asked steps"], Int32[np.ndarray, " asked"]]:
        """New tokens so far, and how many they are, of completions."""
        return self._arrays["token"][numbers], self.lengths[numbers]

    def count(
        self,
        alive: Bool[np.ndarray, "steps rows"],
        completion: Int32[np.ndarray, "steps rows"],
        step: Int32[np.ndarray, "steps rows"],
        columns: int,
    ) -> "Drawn":
        """Count a chunk's tokens; `store` has to be told of them next.

        Args:
            alive, completion, step: see `StepOutput`.
            columns: that attention reads in a step.
        """
        steps = int(alive.any(axis=1).sum())
        self.row_steps += steps * alive.shape[1]
        self.columns += steps * columns
        places, rows = np.nonzero(alive)
        drawn = Drawn(places, rows, completion[places, rows], step[places, rows])
        self.lengths += np.bincount(drawn.completion, minlength=len(self.lengths)).astype(np.int32)
        return drawn

    def store(self, outputs: StepOutput, drawn: "Drawn") -> None:
        """Store a chunk's outputs, on the host."""
        where = drawn.steps, drawn.rows
        for name, array in self._arrays.items():
            array[drawn.completion, drawn.place] = np.asarray(getattr(outputs, name))[where]
        decided = np.asarray(outputs.decision)[where]
        self._features.append(np.asarray(outputs.features)[drawn.steps[decided], drawn.rows[decided]])
        self._places.append((drawn.completion * self._arrays["token"].shape[1] + drawn.place)[decided])

    def build(self, prompt_tokens: int) -> Trajectory:
        """The trajectory of everything collected; `prompt_tokens` were computed for it."""
        order = np.argsort(np.concatenate(self._places))
        last = self.last_tokens(np.arange(len(self.lengths)))
        return Trajectory(
            tokens=self._arrays["token"],
            lengths=self.lengths,
            stopped=np.isin(last, self._stop_ids),
            budgets=self._budgets,
            actions=self._arrays["action"],
            decisions=self._arrays["decision"],
            entropy=self._arrays["entropy"],
            top_probability=self._arrays["top_probability"],
            features=np.concatenate(self._features)[order],
            row_steps=self.row_steps,
            columns=self.columns,
            prompt_tokens=prompt_tokens,
            logprobs=self._arrays.get("logprob"),
            model_logprobs=self._arrays.get("model_logprob"),
        )
