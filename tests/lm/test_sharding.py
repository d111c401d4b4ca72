"""Models over several simulated devices: numbers and tokens of one device, each with its own part, no part moved."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from adaptive_jax.lm.model import load_lm
from adaptive_jax.lm.sharding import check_model_parallel, parameter_spec
from tests.lm import sharded_models as run
from tests.lm.sharded_models import CASES, CHUNK, ROWS, SIZE, golden_or_tiny

Found = tuple[dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What a process with four devices found."""
    directory = tmp_path_factory.mktemp("sharded")
    subprocess.run([sys.executable, "-W", "error", "-m", "tests.lm.sharded_models", directory], check=True)
    return dict(np.load(directory / "arrays.npz")), json.loads((directory / "facts.json").read_text())


@pytest.mark.parametrize(("case", "count"), CASES)
def test_logits_are_those_of_one_device(found: Found, case: str, count: int) -> None:
    lm = golden_or_tiny(case)
    tokens, mask = run.texts(lm)
    expected = np.asarray(lm(tokens, mask)[0])[mask]
    assert np.std(expected) > 1.0
    np.testing.assert_allclose(found[0][f"logits {case} {count}"][mask], expected, rtol=0, atol=3e-5)


def test_a_greedy_rollout_draws_the_tokens_of_one_device(found: Found) -> None:
    expected = run.greedy(golden_or_tiny("qwen2_sharded")).tokens
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(found[0]["tokens"], expected)


# qwen2_sharded split by XLA over 4 devices; tiny over 2 x 2, of which rows are split by shard_map
LOOPS = [("qwen2_sharded", ROWS, 4), ("tiny", ROWS // 2, 2)]


@pytest.mark.parametrize("case", ["qwen2_sharded", "tiny"])
def test_the_loops_functions_draw_the_tokens_of_one_device(found: Found, case: str) -> None:
    expected = run.decode(golden_or_tiny(case), run.plainly, ROWS)[0]
    assert expected.shape == (CHUNK, ROWS)
    np.testing.assert_array_equal(found[0][f"chunk {case}"], expected)


@pytest.mark.parametrize(("case", "rows", "count"), LOOPS)
def test_every_device_holds_the_caches_of_its_heads_only(found: Found, case: str, rows: int, count: int) -> None:
    config = golden_or_tiny(case).config
    keys = [rows, config.num_kv_heads // count, config.head_dim, SIZE]
    values = [rows, config.num_kv_heads // count, SIZE, config.head_dim]
    expected = [keys] * config.num_layers + [values] * config.num_layers
    assert found[1][f"caches {case}"] == [expected] * 3


@pytest.mark.parametrize(("case", "rows", "count"), LOOPS)
def test_a_step_exchanges_two_sums_of_hidden_states_per_layer(found: Found, case: str, rows: int, count: int) -> None:
    """No weight and no cache is moved. A divided vocabulary costs one more sum, of embeddings, and gathers logits."""
    config = golden_or_tiny(case).config
    divided = config.vocab_size % count == 0  # tiny's 360 tokens, not the golden models' 61
    assert divided == (case == "tiny")
    expected = [["all-reduce", rows * config.hidden_size]] * (2 * config.num_layers + divided)
    expected += [["all-gather", rows * config.vocab_size]] * divided
    assert sorted(found[1][f"communication {case}"]) == sorted(expected)


def test_every_device_holds_its_part_of_every_parameter(found: Found) -> None:
    qwen2, tiny = found[1]["parts qwen2_sharded 4"], found[1]["parts tiny 2"]
    layer = {name.removeprefix("blocks.1."): shape for name, shape in qwen2.items() if name.startswith("blocks.1.")}
    assert layer == {
        **{f"attention.{name}.kernel": [32, 8] for name in "qkv"},  # 4 heads of 8 channels
        **{f"attention.{name}.bias": [8] for name in "qkv"},
        "attention.o.kernel": [8, 32],
        "attention_norm.scale": [32],
        "mlp.gate.kernel": [32, 12],
        "mlp.up.kernel": [32, 12],
        "mlp.down.kernel": [12, 32],
        "mlp_norm.scale": [32],
    }
    assert (qwen2["embedding"], qwen2["head.kernel"], qwen2["norm.scale"]) == ([61, 32], [32, 61], [32])
    assert tiny["embedding"] == [180, 96]
    assert tiny["blocks.0.attention.q_norm.scale"] == [24]


def test_biases_after_a_sum_are_whole_and_a_divisible_head_is_split() -> None:
    assert parameter_spec(("blocks", 0, "attention", "o", "bias"), (32,), 2) == P()
    assert parameter_spec(("blocks", 0, "mlp", "down", "bias"), (32,), 2) == P()
    assert parameter_spec(("blocks", 0, "mlp", "up", "bias"), (48,), 2) == P("model")
    assert parameter_spec(("head", "kernel"), (32, 62), 2) == P(None, "model")


@pytest.mark.parametrize("count", [0, 3, 4, 8])
def test_a_number_that_does_not_divide_the_heads_is_refused_with_those_that_do(count: int) -> None:
    config = golden_or_tiny("llama_llama3").config  # 4 query heads on 2 key/value heads, 48 MLP channels
    check_model_parallel(config, 1)
    check_model_parallel(config, 2)
    message = rf"--model-parallel {count} does not divide the model's 2 key/value heads, 4 query heads, 48 .*; what does: 1, 2$"
    with pytest.raises(ValueError, match=message):
        check_model_parallel(config, count)


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_a_tensor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptive_jax.lm.weights._place", lambda *_: pytest.fail("a tensor was read"))
    mesh = SimpleNamespace(shape={"data": 1, "model": 4})  # a real one needs four devices
    with pytest.raises(ValueError, match=r"--model-parallel 4 does not divide the model's 2 key/value heads"):
        load_lm("tiny", mesh=mesh)


def test_a_mesh_that_splits_no_model_asks_nothing_of_pmap() -> None:
    lm = golden_or_tiny("qwen3", Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model")))
    prefill = jax.pmap(lambda decoder, *prompts: decoder.prefill(*prompts), axis_name="data", in_axes=(None, 0, 0))
    prefilled = prefill(lm.decoder, np.ones((1, 2, 8), np.int32), np.full((1, 2), 8, np.int32))
    assert prefilled.cache.keys[0].shape == (1, 2, lm.config.num_kv_heads, lm.config.head_dim, 8)
