"""Hugging Face directories: what is written is read back bit for bit, and every defect is named before any compute."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.transformer import Transformer
from adaptive_jax.lm.weights import load_hf, save_hf

GOLDEN = Path(__file__).parent / "golden"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A copy of a golden model, to be broken."""
    return Path(shutil.copytree(GOLDEN / "llama_llama3", tmp_path / "llama"))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "case", ["llama_llama3", "qwen2_sharded", "qwen3", "gemma2", "gemma3", "ministral3", "olmo3", "smollm3", "phi3"]
)
def test_saved_parameters_are_read_back_bit_for_bit(case: str, dtype: jnp.dtype, tmp_path: Path) -> None:
    config, graphdef, params = load_hf(GOLDEN / case, dtype=dtype)
    save_hf(tmp_path / "new" / "model", config, params)
    read_config, read_graphdef, read_params = load_hf(tmp_path / "new" / "model", dtype=dtype)
    assert (read_config, read_graphdef) == (config, graphdef)
    assert jax.tree.structure(read_params) == jax.tree.structure(params)
    for read, written in zip(jax.tree.leaves(read_params), jax.tree.leaves(params), strict=True):
        assert read.dtype == written.dtype == dtype
        np.testing.assert_array_equal(np.asarray(read), np.asarray(written))


def test_parameters_have_the_structure_that_the_module_gives_them() -> None:
    config, graphdef, params = load_hf(GOLDEN / "qwen3")
    made_graphdef, made = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    assert made_graphdef == graphdef
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), params
    )
    assert nnx.merge(graphdef, params).blocks[1].attention.q.kernel.shape == (32, 48)


def test_what_is_written_is_what_transformers_wrote(tmp_path: Path) -> None:
    config, _, params = load_hf(GOLDEN / "llama_linear")
    save_hf(tmp_path, config, params)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(GOLDEN / "llama_linear" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


def test_shards_and_one_file_give_the_same_parameters(tmp_path: Path) -> None:
    sharded = GOLDEN / "qwen2_sharded"
    merged = {name: array for file in sorted(sharded.glob("*.safetensors")) for name, array in load_file(file).items()}
    shutil.copy(sharded / "config.json", tmp_path)
    save_file(merged, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_hf(sharded)[2], load_hf(tmp_path)[2])


def test_bfloat16_weights_keep_their_values_in_every_dtype() -> None:
    _, _, narrow = load_hf(GOLDEN / "qwen3_bfloat16", dtype=jnp.bfloat16)
    _, _, wide = load_hf(GOLDEN / "qwen3_bfloat16")  # float32 is the default on CPU
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float32)}
    jax.tree.map(lambda n, w: np.testing.assert_array_equal(np.asarray(n, np.float32), np.asarray(w)), narrow, wide)


LOAD = """
import ctypes
import gc
import sys
from pathlib import Path
import jax
import numpy as np
from adaptive_jax.lm.weights import load_hf

def memory(name):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

directory, dtype, devices = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", devices)
mesh = jax.sharding.Mesh(jax.devices(), ("model",)) if devices > 1 else None
load_hf(directory, dtype=dtype, mesh=mesh)  # what JAX itself needs is there before it is measured
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # nor are there pages that are free, but not the system's
Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
before = memory("VmRSS")
_, _, params = load_hf(directory, dtype=dtype, mesh=mesh)
print(memory("VmHWM") - before, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.parametrize(
    ("stored", "dtype", "devices"), [("float32", "float32", 1), ("bfloat16", "float32", 1), ("bfloat16", "bfloat16", 4)]
)
def test_memory_is_that_of_the_parameters_and_of_a_part_of_one_shard(
    stored: str, dtype: str, devices: int, tmp_path: Path
) -> None:
    """The most that a process had in memory (VmHWM), files' mapped pages included, beyond what it had before."""
    config = LMConfig(
        family="llama",
        vocab_size=2048,
        hidden_size=512,
        intermediate_size=2048,
        num_layers=8,
        num_heads=4,
        num_kv_heads=4,
        head_dim=128,
        max_positions=64,
    )
    params = nnx.state(nnx.eval_shape(partial(untrained, config, jnp.dtype(stored))))
    save_hf(tmp_path, config, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params))
    shards = split_by_layer(tmp_path)
    script = [sys.executable, "-c", LOAD, tmp_path, dtype, str(devices)]
    rise, kept = map(int, subprocess.run(script, check=True, capture_output=True, text=True).stdout.split())
    total, largest = sum(shards), max(shards)
    assert total > 5 * largest > 5 * 2**23
    assert kept == total * jnp.dtype(dtype).itemsize // jnp.dtype(stored).itemsize
    assert 0.9 * kept < rise < kept + 1.3 * largest  # below: pages that were free before are used again


def untrained(config: LMConfig, dtype: jnp.dtype) -> Transformer:
    return Transformer(config, dtype=dtype, rngs=nnx.Rngs(0))


def split_by_layer(directory: Path) -> list[int]:
    """One file becomes one shard per layer, and one of the rest: their tensors' bytes."""
    single = directory / "model.safetensors"
    shards: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load_file(single).items():
        shards.setdefault(name.split(".")[2] if ".layers." in name else "rest", {})[name] = array
    for shard, tensors in shards.items():
        save_file(tensors, directory / f"{shard}.safetensors")
    weight_map = {name: f"{shard}.safetensors" for shard, tensors in shards.items() for name in tensors}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    single.unlink()
    return [sum(array.nbytes for array in tensors.values()) for tensors in shards.values()]


@pytest.mark.parametrize(("case", "around"), [("gemma3", "gemma3"), ("ministral3", "mistral3")])
@pytest.mark.parametrize("place", ["language_model.{}", "model.language_model.{}"])  # transformers 4 and 5
def test_the_text_model_of_one_that_reads_images_is_loaded(case: str, around: str, place: str, tmp_path: Path) -> None:
    text = json.loads((GOLDEN / case / "config.json").read_text())
    wrong = not text["tie_word_embeddings"]  # the outer field is transformers' own default
    outer = {"model_type": around, "architectures": ["ForConditionalGeneration"], "tie_word_embeddings": wrong}
    config = outer | {"text_config": text, "vision_config": {"model_type": "siglip_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, tensor in load_file(GOLDEN / case / "model.safetensors").items():
        inner = name if place.startswith("lang") else name.removeprefix("model.")
        tensors[name if name == "lm_head.weight" and place.startswith("model") else place.format(inner)] = tensor
    seen = place.partition("language_model")[0] + "vision_tower.layers.0.weight"
    save_file(tensors | {seen: np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    read, _, params = load_hf(tmp_path)
    expected_config, _, expected = load_hf(GOLDEN / case)
    assert read == expected_config
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_tensors_that_nothing_reads_are_let_be(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llama_linear", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # tied, but saved all the same
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path)[2], load_hf(GOLDEN / "llama_linear")[2])


def remove(tensors: dict[str, np.ndarray]) -> None:
    del tensors[UP]


def reshape(tensors: dict[str, np.ndarray]) -> None:
    tensors[UP] = np.ascontiguousarray(tensors[UP].T)


def add(tensors: dict[str, np.ndarray]) -> None:
    tensors["model.layers.1.mlp.up_proj.bias"] = np.zeros(48, np.float32)


def retype(tensors: dict[str, np.ndarray]) -> None:
    tensors[UP] = tensors[UP].astype(np.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, rf"llama: tensor '{UP}' \[48, 32\] is missing"),
        (reshape, rf"model.safetensors: tensor '{UP}' has shape \[32, 48\], but the config asks for \[48, 32\]"),
        (add, r"model.safetensors: unexpected tensor 'model.layers.1.mlp.up_proj.bias'"),
        (retype, rf"model.safetensors: tensor '{UP}' has dtype I8"),
    ],
)
def test_a_wrong_tensor_is_named_before_any_is_placed(
    llama: Path, change: Callable[[dict[str, np.ndarray]], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(llama / "model.safetensors")
    change(tensors)
    save_file(tensors, llama / "model.safetensors")
    monkeypatch.setattr("adaptive_jax.lm.weights._place", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(ValueError, match=message):
        load_hf(llama)


def test_a_file_cut_within_a_tensor_names_it(llama: Path) -> None:
    file = llama / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=rf"model.safetensors is truncated: tensor 'model\..*' ends at byte {len(whole)} of"):
        load_hf(llama)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "header is incomplete"), (b"\xff" * 16, "header is incomplete"), (b"\x04" + bytes(7) + b"oops", "not JSON")],
)
def test_a_file_without_a_whole_header_is_named(llama: Path, content: bytes, message: str) -> None:
    (llama / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"model.safetensors .*{message}"):
        load_hf(llama)


def test_a_header_that_contradicts_itself_is_named(llama: Path) -> None:
    header = json.dumps({UP: {"dtype": "F32", "shape": [48, 32], "data_offsets": [0, 8]}}).encode()
    (llama / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=rf"model.safetensors: tensor '{UP}' \[48, 32\] has 8 bytes"):
        load_hf(llama)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        [F32],
        {"a": F32, "b": F32 | {"data_offsets": [4, 12]}},
        {"a": F32 | {"data_offsets": [-8, 0]}},
        {"a": F32 | {"data_offsets": [8, 16]}},
        {"a": F32 | {"shape": [-2]}},
        {"a": F32 | {"shape": "2"}},
        {"a": {"shape": [2], "data_offsets": [0, 8]}},
        {"a": F32 | {"dtype": "F33"}},
        {"a": 5},
        {"__metadata__": "m", "a": F32},
    ],
)
def test_a_header_that_the_format_does_not_know_is_refused(llama: Path, header: object) -> None:
    content = json.dumps(header).encode()
    (llama / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(16))
    with pytest.raises(ValueError, match=r"model.safetensors.*(download|get) .* again"):
        load_hf(llama)


def test_a_header_nested_without_end_is_refused(llama: Path) -> None:
    content = b"[" * 100_000
    (llama / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file: its header is not JSON"):
        load_hf(llama)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), jnp.dtype(jnp.bfloat16)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(llama: Path, value: float, dtype: np.dtype) -> None:
    tensors = {name: array.astype(dtype) for name, array in load_file(llama / "model.safetensors").items()}
    tensors[UP][-1, -1] = value
    save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model.safetensors: tensor '{UP}' holds NaN or infinity; get the file again"):
        load_hf(llama)


def test_an_index_with_a_number_for_a_shard_is_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "qwen2_sharded", tmp_path, dirs_exist_ok=True)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = 3
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index.json: 'weight_map' has 3 for 'model.norm.weight'"):
        load_hf(tmp_path)


def test_a_missing_shard_and_a_shard_without_its_tensor_are_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "qwen2_sharded", tmp_path, dirs_exist_ok=True)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, shard)
    with pytest.raises(ValueError, match=f"{shard.name}: tensor '{name}' is missing"):
        load_hf(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing, but .*index.json lists it"):
        load_hf(tmp_path)


def test_absent_files_are_named(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        load_hf(llama)
    (llama / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index.json: field 'weight_map' is missing"):
        load_hf(llama)
    (llama / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        load_hf(llama)
