"""How an action changes the distribution that a token is drawn from: entropy before it and after it, at every step.

The decoding loop tells the entropy before the action only. The one after it is computed here, for some completions, from the
hidden states of the whole texts: the loop does no more work than it did.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.sampling import entropy_after
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.environment import Environment
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas, exchange, total

LOOKED_AT = 32  # completions, about
SIDE_BY_SIDE = 8  # of them
SPACE = 8  # action spaces are filled up to a multiple of this, to share a compilation
POINTS = 300  # steps that are told one by one, at most
EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)  # bins of entropy before, in nats


def modulation_of(
    environment: Environment, trajectory: Trajectory, asked: Int[np.ndarray, " asked"], actions: SamplingParams
) -> dict[str, Any]:
    """Entropy before and after the action at the steps of about `LOOKED_AT` completions of all processes.

    They are of the largest budget, and which ones depends on the problems alone: policies are compared on the same ones.

    Args:
        environment: of the questions.
        trajectory: as many completions of each question asked.
        asked: the questions.
        actions: the policy's action space, shape [A].

    Returns:
        A JSON object, entropies in nats: "completions", how many were looked at; "edges" of the bins of entropy before the
        action, and for each bin its "counts" of steps, the mean entropy "before", and the mean "shift", after minus before;
        "points", [before, after, action] of some steps that are beyond the first bin.
    """
    each = len(trajectory.lengths) // max(len(asked), 1)
    longest = np.flatnonzero(trajectory.budgets == trajectory.tokens.shape[1]).tolist()
    share = LOOKED_AT / max(int(total(np.array(len(longest)))), 1)
    orders = {n: _order(environment.questions[asked[n // each]].id, n % each) for n in longest}
    chosen = sorted((n for n in longest if orders[n] < share), key=orders.__getitem__)
    prompts = [environment.prompt(int(asked[n // each]), 1).tokens for n in chosen]
    after = _entropies_after(environment, trajectory, chosen, prompts, actions)
    steps = [(n, t, value) for n, own in zip(chosen, after, strict=True) for t, value in enumerate(own.tolist())]
    own = {
        "order": np.array([orders[n] for n, _, _ in steps], np.float64),
        "step": np.array([t for _, t, _ in steps], np.int64),
        "before": np.array([trajectory.entropy[n, t] for n, t, _ in steps], np.float64),
        "after": np.array([value for _, _, value in steps], np.float64),
        "action": np.array([trajectory.actions[n, t] for n, t, _ in steps], np.int64),
    }
    parts = exchange(own)
    everyones = {name: np.concatenate([part[name] for part in parts]) for name in own}
    ordered = np.lexsort((everyones["step"], everyones["order"]))
    before, after_all, action = (everyones[name][ordered] for name in ("before", "after", "action"))
    bins = np.clip(np.digitize(before, EDGES) - 1, 0, len(EDGES) - 2)
    counts = np.bincount(bins, minlength=len(EDGES) - 1)

    def means(values: np.ndarray) -> list[float]:
        return np.round(np.bincount(bins, values, len(counts)) / np.maximum(counts, 1), 4).tolist()

    open_steps = np.flatnonzero(bins > 0)  # most steps are settled, and no action changes those
    picked = open_steps[np.unique(np.linspace(0, len(open_steps) - 1, min(POINTS, len(open_steps))).astype(int))]
    points = zip(before[picked].round(3).tolist(), after_all[picked].round(3).tolist(), action[picked].tolist(), strict=True)
    return {
        "completions": int(total(np.array(len(chosen)))),
        "edges": list(EDGES),
        "counts": counts.tolist(),
        "before": means(before),
        "shift": means(after_all - before),
        "points": [list(point) for point in points],
    }


def _order(question: str, number: int) -> float:
    """A number in [0, 1) that follows from a question's id and its completion's number."""
    return int.from_bytes(hashlib.sha256(f"{question} {number}".encode()).digest()[:6], "big") / 2**48


def _entropies_after(
    environment: Environment,
    trajectory: Trajectory,
    chosen: Sequence[int],
    prompts: Sequence[Sequence[int]],
    actions: SamplingParams,
) -> list[np.ndarray]:
    """For each chosen completion the entropies after its actions, in nats."""
    replicas = Replicas.of(environment.lm.decoder)
    rows = -(-SIDE_BY_SIDE // replicas.count) * replicas.count
    actions = actions[np.minimum(np.arange(-(-len(actions) // SPACE) * SPACE), len(actions) - 1)]
    longest = trajectory.tokens.shape[1]
    width = environment.prompt_width + longest
    found = []
    for start in range(0, len(chosen), rows):
        members = chosen[start : start + rows]
        tokens, sizes = np.zeros((rows, width), np.int32), np.ones((rows, 2), np.int32)
        taken = np.zeros((rows, longest), np.int32)
        for row, (n, prompt) in enumerate(zip(members, prompts[start : start + rows], strict=True)):
            text = [*prompt, *trajectory.new_tokens(n)[:-1].tolist()]  # nothing follows the last token
            tokens[row, width - len(text) :] = text
            sizes[row] = len(text), trajectory.lengths[n]
            taken[row] = trajectory.actions[n]
        batch = (replicas.split(tokens), replicas.split(sizes), replicas.split(taken))
        computed = replicas.join(replicas.call(_after, (environment.lm.decoder, actions), batch))
        found += [own[: trajectory.lengths[n]] for own, n in zip(computed, members, strict=False)]
    return found


@jax.jit
def _after(
    decoder: Decoder,
    actions: SamplingParams,
    tokens: Int32[Array, "rows columns"],
    sizes: Int32[Array, "rows 2"],
    taken: Int32[Array, "rows steps"],
) -> Float32[Array, "rows steps"]:
    """Entropies after the actions, in nats.

    Args:
        tokens: texts without their last tokens, right-aligned.
        sizes: tokens of each, and of how many new ones the completion has.
        taken: the actions.
    """
    hidden = decoder.prefix(tokens, sizes[:, 0]).hidden

    def one(step: tuple[jax.Array, jax.Array]) -> jax.Array:
        at, action = step
        column = jnp.minimum(tokens.shape[1] - sizes[:, 1] + at, tokens.shape[1] - 1)
        here = jnp.take_along_axis(hidden, column[:, None, None], axis=1)[:, 0]
        return entropy_after(decoder.logits(here), actions[action])

    # one step after the other: the logits of all of them would not fit
    return jax.lax.map(one, (jnp.arange(taken.shape[1], dtype=jnp.int32), taken.T)).T
