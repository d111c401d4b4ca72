"""What a rollout is asked to complete."""

import hashlib
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32


@dataclass(frozen=True)
class Prompt:
    """A prompt of a rollout.

    Attributes:
        id: the problem's identity; the draws of its completions depend on it.
        tokens: at least one.
        budget: token budget b of its completions, at least 1.
        first_completion: index of its first completion; a later rollout can go on counting where one ended.
    """

    id: str
    tokens: Sequence[int]
    budget: int
    first_completion: int = 0


def problem_digest(problem_id: str) -> UInt32[np.ndarray, " 2"]:
    """A digest of a problem's id; what its completions' keys are folded from."""
    return np.frombuffer(hashlib.sha256(problem_id.encode()).digest()[:8], np.uint32)


def check_prompts(prompts: Sequence[Prompt], max_positions: int | None) -> None:
    """Raises ValueError for an empty prompt, a budget below 1, or a prompt that does not fit the context with its budget."""
    for index, prompt in enumerate(prompts):
        count, name = len(prompt.tokens), f"prompt {index} ({reprlib.repr(prompt.id)})"
        if count == 0:
            raise ValueError(f"{name} is empty: it needs at least one token")
        if prompt.budget < 1:
            raise ValueError(f"{name} has a token budget of {prompt.budget}: give at least 1")
        if max_positions is not None and count + prompt.budget > max_positions:
            raise ValueError(
                f"{name} has {count} tokens, which with a token budget of {prompt.budget} do not fit the "
                f"model's context of {max_positions}: shorten the prompt or lower the budget (a longrope model is loaded for "
                "longer texts by max_model_len)"
            )
