"""Sampling parameters: what is refused, and how settings are stacked, indexed and broadcast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**31),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", np.float32(1.5)),
        ("min_p", np.array([0.1, np.nan])),
        ("top_k", jnp.asarray([3, -3])),
        ("top_p", np.ones((2, 2))),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        SamplingParams(**{field: value})


def test_the_ends_of_every_range_are_allowed() -> None:
    SamplingParams(temperature=0, top_k=0, top_p=1, min_p=0)
    SamplingParams(temperature=1e30, top_k=10**6, top_p=1e-6, min_p=1)


def test_an_action_is_an_index() -> None:
    space = SamplingParams.stack([SamplingParams(0.0), SamplingParams(0.7, top_p=0.9), SamplingParams(1.2, 8, 0.5, 0.1)])
    assert len(space) == 3
    chosen = jax.jit(lambda space, actions: space[actions])(space, jnp.asarray([2, 0, 1, 1]))
    np.testing.assert_allclose(chosen.temperature, np.float32([1.2, 0, 0.7, 0.7]))
    np.testing.assert_array_equal(chosen.top_k, [8, 0, 0, 0])
    np.testing.assert_allclose(chosen.top_p, np.float32([0.5, 1, 0.9, 0.9]))
    np.testing.assert_allclose(chosen.min_p, np.float32([0.1, 0, 0, 0]))
    assert chosen.temperature.dtype == chosen.top_p.dtype == chosen.min_p.dtype == jnp.float32
    assert chosen.top_k.dtype == jnp.int32


def test_scalars_go_with_arrays() -> None:
    settings = SamplingParams(temperature=np.array([0.5, 1.0]), top_p=0.9)
    assert len(settings) == 2
    np.testing.assert_allclose(settings[1:].top_p, np.float32([0.9]))
    np.testing.assert_array_equal(settings.broadcast(2).top_k, [0, 0])


def test_settings_of_another_number_than_the_rows_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"temperature has shape \(2,\); a batch of 3 rows"):
        SamplingParams(temperature=np.array([0.5, 1.0])).broadcast(3)
    with pytest.raises(ValueError, match="top_k has shape"):
        _ = SamplingParams(temperature=np.zeros(3), top_k=np.zeros(2, np.int32))[0]


def test_a_single_setting_has_no_length() -> None:
    with pytest.raises(TypeError, match="no length"):
        len(SamplingParams())
