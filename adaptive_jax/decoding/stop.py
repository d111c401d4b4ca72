"""Stop texts: a completion ends where its text first contains one.

The loop knows tokens only. A token whose own text contains a stop text ends a completion there and then, like a stop token.
A stop text that is spread over several tokens is found on the host, and the tokens that were drawn behind it are dropped. So
the result is the same in both cases, and does not depend on how the text falls into tokens.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import decode


class StopTexts:
    """What ends a completion, besides its budget.

    Args:
        lm: its tokens make the texts.
        texts: the stop texts; may be none.

    Attributes:
        texts: the stop texts.
        ids: tokens that end a completion: the model's own, and those whose text contains a stop text.

    Raises:
        TypeError: texts is a single string.
        ValueError: one of them is empty.
    """

    def __init__(self, lm: LM, texts: Sequence[str]):
        if isinstance(texts, str):
            raise TypeError("stop is a string: give a list of them, such as [stop]")
        if not all(texts):
            raise ValueError("stop has an empty text, which every completion contains: leave it out")
        self._lm, self.texts = lm, tuple(texts)
        self.ids = lm.stop_ids
        if texts:
            count = min(len(lm.tokenizer), lm.config.vocab_size)
            words = lm.tokenizer.batch_decode([[i] for i in range(count)], clean_up_tokenization_spaces=False)
            self.ids += tuple(i for i, word in enumerate(words) if i not in lm.stop_ids and self._found(word) is not None)

    def _found(self, text: str) -> int | None:
        """Where the first stop text begins."""
        places = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def cut(self, text: str) -> str:
        """The text up to the first stop text."""
        return text[: self._found(text)]

    def lengths(
        self, tokens: Int32[np.ndarray, "completions steps"], lengths: Int[np.ndarray, " completions"]
    ) -> Int32[np.ndarray, " completions"]:
        """How many tokens there are up to the one that completes the first stop text, of completions of `lengths` tokens."""
        texts = decode(self._lm.tokenizer, tokens, lengths) if self.texts else []
        cut = np.array(lengths, np.int32)
        for n, text in enumerate(texts):
            if self._found(text) is not None:
                prefixes = [tokens[n, :count] for count in range(1, int(lengths[n]))]
                cut[n] = bisect.bisect_left(prefixes, True, key=self._contains) + 1
        return cut

    def _contains(self, tokens: Int32[np.ndarray, " steps"]) -> bool:
        return self._found(decode(self._lm.tokenizer, tokens[None], np.array([len(tokens)]))[0]) is not None

    def truncated(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory without what was drawn behind the first stop text of each completion."""
        lengths = self.lengths(trajectory.tokens, trajectory.lengths)
        if np.array_equal(lengths, trajectory.lengths):
            return trajectory
        inside = np.arange(trajectory.tokens.shape[1]) < lengths[:, None]
        names = ["tokens", "actions", "decisions", "entropy", "top_probability"]
        names += ["logprobs", "model_logprobs"] if trajectory.logprobs is not None else []
        changed: dict[str, Any] = {name: getattr(trajectory, name) * inside for name in names}
        changed["stopped"] = trajectory.stopped | (lengths < trajectory.lengths)
        changed["features"] = trajectory.features[inside[trajectory.decisions]]
        return dataclasses.replace(trajectory, lengths=lengths, **changed)
