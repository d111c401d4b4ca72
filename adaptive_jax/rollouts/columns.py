"""What a shard's rows are: one completion each. This is the place where columns are documented.

    ==============  =============  =================================================================================
    column          Parquet type   meaning
    ==============  =============  =================================================================================
    id              string         the prompt's id
    completion      int32          index among the prompt's completions, from 0
    prompt          string         the text that was continued, special tokens spelled out
    text            string         the completion, without special tokens, up to the first stop text
    tokens          list<int32>    [T] its tokens, the stop token included
    logprobs        list<float>    [T] nats, of the distribution each token was drawn from: after temperature and filters
    model_logprobs  list<float>    [T] nats, of the model's distribution, before them
    entropy         list<float>    [T] nats, of the model's next-token distribution
    actions         list<int32>    [T] index into `settings` of how each token was drawn
    settings        list<struct>   [A] temperature, top_k, top_p, min_p: the policy's action space
    finish_reason   string         "stop", or "budget" where it was truncated
    budget          int32          token budget b
    seed            int64          of the rollout; (seed, id, completion) fix the draws
    verdict         string         of the grader, or of --reward: "correct", "wrong", "unparseable", "timeout", "error"
    reward          float          in [0, 1]; null where the verdict is "error", which says nothing about the completion
    ==============  =============  =================================================================================

The last two are there where --grade or --reward asks for them.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Num

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.rollouts.requests import Request
from adaptive_jax.tasks.problem import Grade

SETTING = pa.struct([("temperature", pa.float32()), ("top_k", pa.int32()), ("top_p", pa.float32()), ("min_p", pa.float32())])
TYPES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "completion": pa.int32(),
    "prompt": pa.string(),
    "text": pa.string(),
    "tokens": pa.list_(pa.int32()),
    "logprobs": pa.list_(pa.float32()),
    "model_logprobs": pa.list_(pa.float32()),
    "entropy": pa.list_(pa.float32()),
    "actions": pa.list_(pa.int32()),
    "settings": pa.list_(SETTING),
    "finish_reason": pa.string(),
    "budget": pa.int32(),
    "seed": pa.int64(),
    "verdict": pa.string(),
    "reward": pa.float32(),
}
GRADED = ("verdict", "reward")
LOGPROBS = ("logprobs", "model_logprobs")


def table(
    columns: Collection[str],
    requests: Sequence[Request],
    trajectory: Trajectory,
    texts: Sequence[str],
    actions: SamplingParams,
    seed: int,
    grades: Sequence[Grade] | None,
) -> pa.Table:
    """The rows of N completions.

    Args:
        columns: which of `TYPES`.
        requests: N / n of them, which the completions are of.
        trajectory, texts: the completions; with log-probabilities, where there is a column for them.
        actions: the policy's action space, [A].
        seed: of the rollout.
        grades: N of them; None where there is no column for them.
    """
    count = len(texts)
    n = count // len(requests)
    inside = np.arange(trajectory.tokens.shape[1]) < trajectory.lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(trajectory.lengths)]).astype(np.int32)

    def per_token(values: Num[np.ndarray, "completions steps"] | None) -> pa.Array:
        assert values is not None
        return pa.ListArray.from_arrays(offsets, values[inside])

    def settings() -> pa.Array:
        size = len(actions)
        fields = {name: np.asarray(value) for name, value in vars(actions).items()}
        space = [{name: values[action].item() for name, values in fields.items()} for action in range(size)]
        places = np.tile(np.arange(size), count)
        return pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * size, pa.array(space, SETTING).take(places))

    make: dict[str, Callable[[], pa.Array]] = {
        "id": lambda: [request.id for request in requests for _ in range(n)],
        "completion": lambda: np.tile(np.arange(n, dtype=np.int32), len(requests)),
        "prompt": lambda: [request.text for request in requests for _ in range(n)],
        "text": lambda: texts,
        "tokens": lambda: per_token(trajectory.tokens),
        "logprobs": lambda: per_token(trajectory.logprobs),
        "model_logprobs": lambda: per_token(trajectory.model_logprobs),
        "entropy": lambda: per_token(trajectory.entropy),
        "actions": lambda: per_token(trajectory.actions),
        "settings": settings,
        "finish_reason": lambda: np.where(trajectory.stopped, "stop", "budget"),
        "budget": lambda: trajectory.budgets.astype(np.int32),
        "seed": lambda: np.full(count, seed, np.int64),
        "verdict": lambda: [grade.verdict for grade in grades or ()],
        "reward": lambda: [None if grade.verdict == "error" else grade.value for grade in grades or ()],
    }
    return pa.table({name: pa.array(make[name](), TYPES[name]) for name in columns})
