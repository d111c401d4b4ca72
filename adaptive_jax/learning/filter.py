"""Which prompts can teach: those whose completions are neither all right nor all wrong."""

import numpy as np


def has_signal(rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """bool [N]: whether a prompt's rewards, float [N, G] where valid [N, G], differ among each other.

    A prompt that a uniform policy always or never solves gives every completion the same advantage: none. The paper filters
    prompts by such an opening pass; that the thresholds are 0 and 1 is ours.
    """
    solved = (rewards * valid).sum(axis=1)
    return (solved > 0) & (solved < valid.sum(axis=1))
