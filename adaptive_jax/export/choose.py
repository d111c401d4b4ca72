"""The sequence adapter's choice, as settings for any server: it needs the prompt alone, so the server needs no adapter."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.embedding import embeddings
from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.decoding.prompt import Prompt, check_prompts
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import encode
from adaptive_jax.policies.sequence import SequenceAdapter


def choose(lm: LM, prompts: Sequence[str], adapter: SequenceAdapter, *, samples: int = 8) -> list[dict[str, float | int]]:
    """The sampling setting of each prompt, to be sent to a server together with the prompt.

    Args:
        lm: the frozen language model that the adapter was trained with.
        prompts: texts to be continued, as for `generate`.
        adapter: a sequence adapter.
        samples: how many completions each prompt is going to get, the sampling budget B.

    Returns:
        Per prompt a dictionary of plain numbers: "temperature", "top_p", "top_k" and "min_p". What is off is spelled out (1.0,
        -1 and 0.0), since servers have defaults of their own, such as those of the model's generation config. Where a server
        knows none but OpenAI's own parameters, leave out top_k and min_p, if they are off.

    Raises:
        TypeError: prompts is one string, or the adapter is no sequence adapter.
        ValueError: samples is below 1, a prompt is empty, does not fit the model's context or has a token that the model has
            not, or the adapter belongs to a model of another hidden size.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts is a string: give a list of prompts, such as [prompt]")
    if not isinstance(adapter, SequenceAdapter):
        raise TypeError(
            f"the adapter is a {type(adapter).__name__}, which chooses anew for each token: give a sequence adapter, or decode "
            "with adaptive_jax.generate or an export for transformers"
        )
    if samples < 1:
        raise ValueError(f"samples is {samples}: give at least 1")
    if not prompts:
        return []
    asked = [Prompt(text, encode(lm.tokenizer, text, lm.config.vocab_size), 1) for text in prompts]
    check_prompts(asked, lm.config.max_positions)
    texts = [prompt.tokens for prompt in asked]
    last, mean = embeddings(lm.decoder, texts)
    count = jnp.full(len(asked), samples, jnp.int32)
    unused = jnp.zeros_like(count)
    observation = PromptObservation(jnp.asarray(last), jnp.asarray(mean), completion=unused, samples=count, budget=unused)
    settings = jax.device_get(adapter.actions[adapter.begin(observation, jnp.zeros(len(asked)))])
    return [
        {
            "temperature": _shortest(settings.temperature[row]),
            "top_p": _shortest(settings.top_p[row]),
            "top_k": int(settings.top_k[row]) or -1,
            "min_p": _shortest(settings.min_p[row]),
        }
        for row in range(len(asked))
    ]


def _shortest(value: np.float32) -> float:
    """0.7 for the float32 next to it."""
    return float(str(value))
