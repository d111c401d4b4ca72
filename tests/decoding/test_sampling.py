"""The sampling kernel against a float64 NumPy oracle that sorts, and its draws against its probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from adaptive_jax.decoding import sampling
from adaptive_jax.decoding.params import SamplingParams

TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.7, 2.1, 2.5)
FILTERS = (
    {},
    *({"top_p": p} for p in (0.5, 0.8, 0.9, 0.95, 0.98)),
    *({"top_k": k} for k in (8, 16, 32, 64, 128)),
    *({"min_p": p} for p in (0.01, 0.02, 0.05, 0.1)),
)
GRID = [SamplingParams(t, **f) for t, f in itertools.product(TEMPERATURES, FILTERS)]
EDGES = (0.0, 2.0**-23, 0.5, 1 - 2.0**-23, np.nextafter(np.float32(1), np.float32(0)))


def oracle(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Probabilities of one row, float64 [V], by sorting."""
    x = logits.astype(np.float64)
    if temperature == 0:
        return np.eye(x.size)[np.argmax(x)]
    p = np.exp((x - x.max()) / temperature)
    if 0 < top_k < x.size:
        p[x < np.sort(x)[-top_k]] = 0
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        crossing = order[np.searchsorted(np.cumsum(p[order]), top_p)]
        p[x < x[crossing]] = 0
    p[p < min_p * p.max()] = 0
    return p / p.sum()


def check(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Asserts that `probabilities` is the oracle's, up to tokens whose cumulative mass equals top_p within 1e-6."""
    got = np.asarray(sampling.probabilities(jnp.asarray(logits), params), np.float64)
    settings = jax.tree.map(np.asarray, params.broadcast(len(logits)))
    for row in range(len(logits)):
        t, k, p, m = (float(x[row]) for x in (settings.temperature, settings.top_k, settings.top_p, settings.min_p))
        fewest = oracle(logits[row], t, int(k), p if p == 1 else max(p - 1e-6, 0), m) > 0
        most = oracle(logits[row], t, int(k), p if p == 1 else min(p + 1e-6, 1 - 1e-12), m) > 0
        kept = got[row] > 0
        # a probability below 1e-26 of the largest may be 0
        full = oracle(logits[row], t, 0, 1.0, 0.0)
        visible = full > 1.1e-26 * full.max()
        assert (kept | ~fewest | ~visible).all(), (row, t, k, p, m)
        assert (~kept | most).all(), (row, t, k, p, m)
        expected = np.where(kept, full, 0)
        np.testing.assert_allclose(got[row], expected / expected.sum(), rtol=2e-5, err_msg=str((row, t, k, p, m)))
    return got


def random_params(rng: np.random.Generator, rows: int, vocabulary: int) -> SamplingParams:
    """Every combination of filters on and off, greedy rows, k beyond V and p = 1 among them."""
    return SamplingParams(
        temperature=rng.choice([0.0, 0.3, 0.7, 1.0, 1.4, 2.5], rows).astype(np.float32),
        top_k=rng.choice([0, 0, 1, 2, 8, 128, vocabulary, vocabulary + 1], rows).astype(np.int32),
        top_p=rng.choice([1.0, 1.0, 1e-3, 0.5, 0.9, 0.98], rows).astype(np.float32),
        min_p=rng.choice([0.0, 0.0, 0.01, 0.1, 0.5, 1.0], rows).astype(np.float32),
    )


@pytest.mark.parametrize("vocabulary", [1, 5, 384, 1000])
@pytest.mark.parametrize("kind", ["peaked", "flat", "tied", "barred"])
def test_probabilities_are_the_oracles(vocabulary: int, kind: str) -> None:
    rng = np.random.default_rng(vocabulary)
    rows = 64
    logits = rng.normal(size=(rows, vocabulary)) * (0.5 if kind == "flat" else 4)
    if kind == "tied":
        logits = np.round(logits)
    if kind == "barred":
        keep = rng.random(logits.shape) < rng.random((rows, 1))
        keep[np.arange(rows), rng.integers(vocabulary, size=rows)] = True
        keep[:4] = np.eye(vocabulary, dtype=bool)[rng.integers(vocabulary, size=4)]  # one finite logit
        logits = np.where(keep, logits, -np.inf)
    logits = logits.astype(np.float32)
    got = check(logits, random_params(rng, rows, vocabulary))
    assert not got[np.isneginf(logits)].any()


def test_a_real_vocabulary() -> None:
    """More rows than are searched together on a CPU, with cuts from the first to the 48000th token."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(24, 49152)).astype(np.float32)
    logits[::2, :20] += 12
    params = SamplingParams.stack(
        [
            SamplingParams(t, **f)
            for t in (0.7, 2.5)
            for f in (*({"top_p": p} for p in (0.5, 0.95, 0.98)), {"top_k": 128}, {"top_k": 20_000, "top_p": 0.9}, {})
        ]
        * 2
    )
    kept = (check(logits, params) > 0).sum(axis=-1)
    assert kept.min() < 20
    assert kept.max() == 49152


def test_ties_at_a_threshold_are_all_kept() -> None:
    logits = jnp.log(jnp.asarray([[0.2, 0.4, 0.2, 0.1, 0.1]] * 3 + [[0.1, 0.3, 0.2, 0.3, 0.1]]))
    params = SamplingParams(
        top_k=np.array([2, 0, 4, 0]), top_p=np.array([1, 0.5, 0.95, 1], np.float32), min_p=np.array([0, 0, 0, 1])
    )
    kept = sampling.probabilities(logits, params) > 0
    np.testing.assert_array_equal(kept, [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]])


def test_top_p_counts_the_mass_that_top_k_left_and_min_p_does_not_change_it() -> None:
    logits = jnp.log(jnp.asarray([[0.3, 0.25, 0.2, 0.15, 0.1]] * 2))
    # of the three left by top-k, 0.3 and 0.25 hold 0.73 of the mass: the third crosses 0.74, but not 0.7
    params = SamplingParams(top_k=3, top_p=np.array([0.7, 0.74], np.float32), min_p=0.5)
    kept = sampling.probabilities(logits, params) > 0
    np.testing.assert_array_equal(kept, [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])


def test_greedy_takes_the_first_of_ties_whatever_the_filters() -> None:
    logits = jnp.zeros((64, 384)).at[:, 7].set(2.0).at[:, 200].set(2.0)
    params = random_params(np.random.default_rng(2), 64, 384).replace(temperature=0.0)
    np.testing.assert_array_equal(sampling.probabilities(logits, params), np.eye(384)[[7] * 64])
    for uniform in EDGES:
        tokens = sampling.draw(jnp.full(64, uniform, jnp.float32), logits, params.broadcast(64))
        np.testing.assert_array_equal(tokens, [7] * 64)


def test_bfloat16_logits_are_widened() -> None:
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(64, 384)), jnp.bfloat16)
    params = random_params(rng, 64, 384)
    keys = jax.random.split(jax.random.key(0), 64)
    check(np.asarray(logits.astype(jnp.float32)), params)
    np.testing.assert_array_equal(
        sampling.sample(keys, logits, params), sampling.sample(keys, logits.astype(jnp.float32), params)
    )


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 20000 draws of each of six settings; fails by chance once in 10^4 runs of another seed."""
    rng = np.random.default_rng(4)
    draws, logits = 20_000, jnp.asarray(rng.normal(size=(1, 200)) * 1.5, jnp.float32)
    keys = jax.random.split(jax.random.key(4), draws)
    for number, setting in enumerate(
        [
            SamplingParams(),
            SamplingParams(0.7),
            SamplingParams(2.5, top_k=32),
            SamplingParams(1.4, top_p=0.9),
            SamplingParams(1.0, min_p=0.05),
            SamplingParams(1.7, top_k=64, top_p=0.8, min_p=0.1),
        ]
    ):
        folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        tokens = sampling.sample(folded, jnp.broadcast_to(logits, (draws, 200)), setting)
        expected = draws * np.asarray(sampling.probabilities(logits, setting)[0], np.float64)
        seen = np.bincount(np.asarray(tokens), minlength=200)
        assert not seen[expected == 0].any()
        common = expected >= 5
        cells = np.array([*seen[common], seen[~common].sum()]), np.array([*expected[common], expected[~common].sum()])
        filled = cells[1] > 0
        statistic = np.sum((cells[0] - cells[1])[filled] ** 2 / cells[1][filled])
        assert statistic < stats.chi2.ppf(1 - 1e-4 / 6, filled.sum() - 1), setting


@pytest.mark.parametrize("vocabulary", [5, 384, 1000])
def test_draw_inverts_the_cumulative_distribution(vocabulary: int) -> None:
    """Every uniform number, the extreme ones included, hits the token whose slice of [0, 1) it lies in."""
    rng = np.random.default_rng(5)
    rows = 64
    logits = (rng.normal(size=(rows, vocabulary)) * rng.choice([0.5, 3, 30], (rows, 1))).astype(np.float32)
    logits[:, rng.integers(vocabulary)] = -np.inf
    params = random_params(rng, rows, vocabulary)
    params = params.replace(temperature=np.maximum(params.temperature, 0.3))
    probabilities = np.asarray(sampling.probabilities(jnp.asarray(logits), params), np.float64)
    ends = np.cumsum(probabilities, axis=-1)
    for uniform in (*EDGES, *rng.random(5).astype(np.float32)):
        tokens = sampling.draw(jnp.full(rows, uniform, jnp.float32), jnp.asarray(logits), params.broadcast(rows))
        tokens = np.asarray(tokens)[:, None]
        width = np.take_along_axis(probabilities, tokens, axis=-1)
        end = np.take_along_axis(ends, tokens, axis=-1)
        assert (width > 0).all()
        assert (end - width <= uniform + 1e-5).all()
        assert (end >= uniform - 1e-5).all()


def test_rounding_never_picks_a_weight_of_zero() -> None:
    """XLA adds running sums up in pieces: they can rise where a weight is 0, and a target can lie in that step."""
    rng = np.random.default_rng(9)
    weights = rng.random((4096, 384), np.float32) * (rng.random((4096, 384)) < 0.3)
    running = np.asarray(jnp.cumsum(weights, axis=-1))
    rows, places = np.nonzero((np.diff(running) > 0) & (weights[:, 1:] == 0))
    assert rows.size
    index, _ = sampling._invert(jnp.asarray(weights[rows]), jnp.asarray(running[rows, places]))
    assert (weights[rows, np.asarray(index)] > 0).all()


def test_one_compile_for_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[tuple[int, ...]] = []
    cut = sampling._cut

    def counted(logits: jax.Array, *rest: jax.Array) -> jax.Array:
        traced.append(logits.shape)
        return cut(logits, *rest)

    monkeypatch.setattr(sampling, "_cut", counted)
    keys, logits = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 77))  # a shape that no other test compiles
    for setting in (*GRID, SamplingParams(temperature=0, top_k=3), SamplingParams.stack(GRID)[jnp.asarray([0, 9, 99])]):
        sampling.sample(keys, logits, setting)
    assert len(traced) == 1
    for setting in GRID:
        sampling.probabilities(logits, setting)
    assert len(traced) == 2


@pytest.mark.parametrize(("vocabulary", "rows"), [(384, 64), (49152, 16)])
def test_a_token_does_not_depend_on_the_rest_of_the_batch(vocabulary: int, rows: int) -> None:
    rng = np.random.default_rng(6)
    logits = jnp.asarray(rng.normal(size=(rows, vocabulary)) * 2, jnp.float32)
    params = SamplingParams.stack(GRID)[jnp.asarray(rng.choice(len(GRID), rows))]
    keys = jax.random.split(jax.random.key(6), rows)
    together = np.asarray(sampling.sample(keys, logits, params))
    shuffled = rng.permutation(rows)
    np.testing.assert_array_equal(sampling.sample(keys[shuffled], logits[shuffled], params[shuffled]), together[shuffled])
    for row in range(0, rows, max(rows // 8, 1)):
        alone = slice(row, row + 1)
        assert sampling.sample(keys[alone], logits[alone], params[alone])[0] == together[row]


def test_parameters_are_traced_inside_a_scan() -> None:
    """A policy may change a row's parameters at every step."""
    logits = jnp.asarray(np.random.default_rng(7).normal(size=(4, 50)), jnp.float32)
    space = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.0, top_k=1), SamplingParams(1.0, top_p=1e-6)])

    def step(carry: None, action: jax.Array) -> tuple[None, jax.Array]:
        return carry, sampling.draw(jnp.full(4, 0.9), logits, space[jnp.full(4, action)])

    _, tokens = jax.lax.scan(step, None, jnp.arange(3))
    np.testing.assert_array_equal(tokens, np.tile(np.argmax(logits, axis=-1), (3, 1)))


def test_summary_is_entropy_and_largest_probability() -> None:
    rng = np.random.default_rng(8)
    logits = (rng.normal(size=(40, 700)) * rng.choice([0.1, 2, 20], (40, 1))).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    logits[0] = np.where(np.arange(700) == 5, 3.0, -np.inf)
    p = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    entropy, top = sampling.summary(jnp.asarray(logits))
    np.testing.assert_allclose(entropy, stats.entropy(p, axis=-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(top, p.max(axis=-1), rtol=1e-5)


def test_a_parameter_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match="top_k has shape"):
        sampling.probabilities(jnp.zeros((3, 7)), SamplingParams(top_k=np.array([1, 2])))


def test_entropy_after_is_that_of_the_probabilities() -> None:
    logits = np.random.default_rng(4).normal(0, 3, (4, 300)).astype(np.float32)
    settings = [
        SamplingParams(0.0),
        SamplingParams(0.7),
        SamplingParams(1.3, top_k=9),
        SamplingParams(1.0, top_p=0.6, min_p=0.05),
    ]
    found = sampling.entropy_after(jnp.asarray(logits), SamplingParams.stack(settings))
    for row, s, value in zip(logits, settings, found, strict=True):
        chances = oracle(row, s.temperature, s.top_k, s.top_p, s.min_p)
        assert float(value) == pytest.approx(-sum(p * np.log(p) for p in chances if p > 0), abs=1e-4)
