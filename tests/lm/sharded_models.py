"""Run by test_sharding.py with four simulated devices, which a test process does not have; writes what it finds to files.

python -m tests.lm.sharded_models DIRECTORY
"""

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import adaptive_jax as aj
from adaptive_jax.decoding import loop
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.queue import Entries, Waiting, empty_queue, enqueue
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.rows import empty_state, move
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.lm.weights import load_hf

GOLDEN = Path(__file__).parent / "golden"
CASES = [("llama_llama3", 2), ("qwen2_sharded", 2), ("qwen2_sharded", 4), ("qwen3", 2), ("qwen3_bfloat16", 2), ("tiny", 2)]
CASES += [("gemma3", 2), ("olmo3", 2), ("smollm3", 2), ("phi3", 2)]  # windows, norms over all heads, weights stored as one
ROWS, SIZE, CHUNK = 4, 64, 6
STOP = np.array([1], np.int32)


def golden_or_tiny(case: str, mesh: Mesh | None = None) -> LM:
    if case == "tiny":
        return load_lm("tiny", dtype=jnp.float32, mesh=mesh)
    config, graphdef, params = load_hf(GOLDEN / case, dtype=jnp.float32, mesh=mesh)
    return LM(case, config, None, (1,), graphdef, params, mesh)


def texts(lm: LM) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [4, 24], padded on the left."""
    tokens = np.random.default_rng(3).integers(2, lm.config.vocab_size, (ROWS, 24), np.int32)
    return tokens, np.arange(24)[None] >= np.array([0, 3, 11, 20])[:, None]


def greedy(lm: LM) -> Trajectory:
    """Five completions on two rows, so that rows are filled again."""
    tokens, _ = texts(lm)
    prompts = [Prompt(str(i), tuple(tokens[i % ROWS, : 4 + 3 * i].tolist()), budget=20 + 8 * i) for i in range(5)]
    policy = aj.static(temperature=0.0)
    return rollout(lm.decoder, policy, prompts, key=jax.random.key(0), stop_ids=STOP.tolist(), rows=2, chunk=CHUNK)


def entries(rows: int) -> Entries:
    """A completion of each prompt, counted among those of the `rows` rows that a function sees; the same for each such part."""
    per_row = functools.partial(jnp.full, (ROWS,), dtype=jnp.int32)
    return Entries(
        first=jnp.int32(0),
        count=jnp.int32(rows),
        prompt=jnp.arange(ROWS, dtype=jnp.int32) % rows,
        completion=jnp.arange(ROWS, dtype=jnp.int32) % rows,
        index=per_row(0),
        token=per_row(5),
        length=per_row(24),
        budget=per_row(30),
        samples=per_row(1),
        key=jax.random.key_data(jax.random.split(jax.random.key(1), ROWS)),
    )


def decode(lm: LM, wrap: Callable[..., Callable[..., Any]], rows: int) -> tuple[np.ndarray, list[list[tuple[int, ...]]], str]:
    """Prefill, a queue, a chunk whose rows it fills, and a move into another ring, as `wrap` makes each for `rows` rows.

    Args:
        wrap: takes a function of arrays, and specs of arguments and results.

    Returns:
        tokens [CHUNK, R]; the shapes of what each device holds of three caches: the empty ring, the ring after the chunk, and
        the other ring; and the chunk's compiled program.
    """
    decoder: Decoder = lm.decoder
    policy = aj.static(temperature=0.0)
    one, row, steps = P(), P("data"), P(None, "data")
    tokens, _ = texts(lm)
    prefill = wrap(loop.prefill, (one, row, row), row)(decoder, jnp.asarray(tokens), jnp.full((ROWS,), 24, jnp.int32))
    key, hidden = jax.random.key(0), prefill.last[:1]
    new_queue = functools.partial(empty_queue, prompts=rows, columns=32, entries=rows)
    queue = wrap(new_queue, (one, one, one), row)(decoder, key, hidden)
    new = entries(rows)
    new_spec = jax.tree_util.tree_map_with_path(lambda path, _: one if path[0].name in ("first", "count") else row, new)
    queue = wrap(enqueue, (one, one, one, row, row, new_spec), row)(decoder, policy, jnp.int32(0), queue, prefill, new)
    empty = functools.partial(empty_state, rows=rows, size=SIZE)
    shapes = jax.eval_shape(empty, decoder, key, hidden)
    spec = jax.tree_util.tree_map_with_path(lambda path, _: one if path[0].name == "cursor" else row, shapes)
    state = wrap(empty, (one, one, one), spec)(decoder, key, hidden)
    empty_ring = parts(state.cache)
    waiting = Waiting(jnp.int32(0), jnp.int32(rows), jnp.int32(0))
    decode = functools.partial(loop.decode_chunk, sizes=(SIZE,), chunk=CHUNK)
    chunk = wrap(decode, (one, one, one, (spec,), row, one), ((spec,), one, steps))
    program = chunk.lower(decoder, policy, STOP, (state,), queue, waiting).compile().as_text()
    (state,), _, output = chunk(decoder, policy, STOP, (state,), queue, waiting)
    other = wrap(empty, (one, one, one), spec)(decoder, key, hidden)
    source = jnp.array([0, -1, -1, 1], jnp.int32)
    state, other = wrap(move, (one, spec, spec, row), (spec, spec))(decoder, state, other, source)
    return np.asarray(output.token), [empty_ring, parts(state.cache), parts(other.cache)], program


def communication(program: str) -> list[list[Any]]:
    """[operation, elements of its result] of everything that devices exchange in a compiled program."""
    found = re.findall(
        r" = \(?\w+\[([\d,]*)\]\S* (all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter)(?:-start)?\(", program
    )
    return [[kind, int(np.prod([int(n) for n in shape.split(",") if n]))] for shape, kind in found]


def part(array: jax.Array) -> tuple[int, ...]:
    """The shape of what each device holds."""
    (shape,) = {shard.data.shape for shard in array.addressable_shards}
    return shape


def parts(cache: KVCache) -> list[tuple[int, ...]]:
    """Of all keys, then of all values."""
    return [part(leaf) for leaf in (*cache.keys, *cache.values)]


def plainly(function: Callable[..., Any], arguments: Any, results: Any) -> Callable[..., Any]:
    """Everything split by XLA."""
    return jax.jit(function)


def by_hand(mesh: Mesh) -> Callable[..., Callable[..., Any]]:
    """Rows split over "data" by shard_map, the model over "model" by XLA."""

    def wrap(function: Callable[..., Any], arguments: Any, results: Any) -> Callable[..., Any]:
        mapped = jax.shard_map(function, mesh=mesh, in_specs=arguments, out_specs=results, axis_names={"data"}, check_vma=False)
        return jax.jit(mapped)

    return wrap


def main(directory: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    devices = np.array(jax.devices())
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    for case, count in CASES:
        lm = golden_or_tiny(case, Mesh(devices[:count].reshape(1, count), ("data", "model")))
        arrays[f"logits {case} {count}"] = np.asarray(lm(*texts(lm))[0])
        facts[f"parts {case} {count}"] = {
            ".".join(map(str, path)): part(leaf[...]) for path, leaf in nnx.to_flat_state(lm.params)
        }
    plain = golden_or_tiny("qwen2_sharded", Mesh(devices, ("model",)))
    arrays["tokens"] = greedy(plain).tokens
    halves = golden_or_tiny("tiny", mesh := Mesh(devices.reshape(2, 2), ("data", "model")))
    for name, lm, wrap, rows in (("qwen2_sharded", plain, plainly, ROWS), ("tiny", halves, by_hand(mesh), ROWS // 2)):
        arrays[f"chunk {name}"], facts[f"caches {name}"], program = decode(lm, wrap, rows)
        facts[f"communication {name}"] = communication(program)
    np.savez(directory / "arrays.npz", **arrays)
    (directory / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
