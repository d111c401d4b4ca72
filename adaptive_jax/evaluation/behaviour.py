"""What a policy did, counted over all completions: how long they are, and which action was taken where."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from adaptive_jax.decoding.loop import DECISION_TOP_PROBABILITY
from adaptive_jax.decoding.params import SamplingParams, action_names
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.parallel import largest, total

BINS = 12  # of lengths and of remaining budgets
TOKENS = 200  # the commonest tokens at decisions


def behaviour_of(
    trajectory: Trajectory,
    actions: SamplingParams,
    tokenizer: Any,
    budgets: Sequence[int],
    modulation: Mapping[str, Any],
    *,
    cut: bool,
) -> UInt8[np.ndarray, " bytes"]:
    """Counts over the completions of all processes; as for the learner, a decision is a step that is not as good as certain.

    Args:
        trajectory: completions.
        actions: the policy's action space, shape [A].
        tokenizer: of the model.
        budgets: K token budgets.
        modulation: how the policy changed distributions (see `modulation_of`).
        cut: whether each completion counts at every budget, as its prefix; otherwise at its own budget only.

    Returns:
        A JSON object with "actions", their names; "budgets" and "mean_tokens" at each of them; "lengths", the
        counts of completion lengths at the largest budget in bins with "edges"; "remaining", the counts of actions at decisions
        [bins, A] by the tokens left of the budget, with "edges"; "tokens", the counts of actions [A] by the text of the token
        that was drawn; and "modulation".
    """
    longest, names = max(budgets), action_names(actions)
    steps = np.arange(trajectory.tokens.shape[1])
    lengths, own = np.asarray(trajectory.lengths), np.asarray(trajectory.budgets)
    used = [np.minimum(lengths, b) if cut else lengths[own == b] for b in budgets]
    sums = total(np.array([(part.sum(), len(part)) for part in used], np.int64))
    edges = np.linspace(0, longest, BINS + 1)
    decided = (steps < lengths[:, None]) & (trajectory.top_probability <= DECISION_TOP_PROBABILITY)
    left = (own[:, None] - steps)[decided]
    taken, tokens = trajectory.actions[decided], trajectory.tokens[decided]
    remaining = np.zeros((BINS, len(names)), np.int64)
    np.add.at(remaining, (np.clip(np.digitize(left, edges) - 1, 0, BINS - 1), taken), 1)
    counts = np.zeros((int(largest(tokens.max(initial=0))) + 1, len(names)), np.int64)
    np.add.at(counts, (tokens, taken), 1)
    counts = total(counts)
    common = [token for token in np.argsort(-counts.sum(axis=1), kind="stable")[:TOKENS].tolist() if counts[token].any()]
    content = {
        "actions": names,
        "budgets": list(budgets),
        "mean_tokens": (sums[:, 0] / np.maximum(sums[:, 1], 1)).tolist(),
        "lengths": {
            "edges": edges.tolist(),
            "counts": total(np.histogram(lengths[own == longest], edges)[0].astype(np.int64)).tolist(),
        },
        "remaining": {"edges": edges.tolist(), "counts": total(remaining).tolist()},
        "tokens": [[tokenizer.decode([token]), counts[token].tolist()] for token in common],
        "modulation": modulation,
    }
    return np.frombuffer(json.dumps(content).encode(), np.uint8)
