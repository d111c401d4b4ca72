"""Which prompts carry a signal."""

import numpy as np
import pytest

from adaptive_jax.learning.filter import has_signal


@pytest.mark.parametrize(
    ("rewards", "valid", "expected"),
    [
        ([0, 0, 0], [1, 1, 1], False),
        ([1, 1, 1], [1, 1, 1], False),
        ([1, 0, 0], [1, 1, 1], True),
        ([1, 1, 0], [1, 1, 1], True),
        ([1, 1, 0], [1, 1, 0], False),  # the only one that differs is unknown
        ([1, 0, 0], [0, 1, 1], False),
        ([1, 0, 0], [1, 1, 0], True),
        ([1, 0, 0], [1, 0, 0], False),  # one known reward differs from nothing
        ([0, 0, 0], [0, 0, 0], False),
        ([1, 1, 1], [0, 0, 0], False),
    ],
)
def test_a_prompt_teaches_if_its_known_rewards_differ(rewards: list[int], valid: list[int], expected: bool) -> None:
    found = has_signal(np.float32([rewards, [0, 1, 0]]), np.array([valid, [1, 1, 1]], bool))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [expected, True])
