"""Hugging Face directories (config.json + safetensors) to the transformer's parameters, and back.

Reading has two halves. First every header is read and every name, dtype, shape and byte range is checked: an error
names the file and the tensor before anything is computed. Then tensors are read one at a time from the mapped file,
turned and converted on the device, so that host memory holds one tensor beyond the parameters themselves.

Our linear kernels are stored [inputs, outputs], Hugging Face's weights [outputs, inputs].
"""

import json
import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from adaptive_jax.lm.config import LMConfig, read_json
from adaptive_jax.lm.families import AROUND_TEXT, Family
from adaptive_jax.lm.sharding import MODEL, check_model_parallel, parameter_spec
from adaptive_jax.lm.transformer import Transformer

CHECKED = 2**18  # values that are looked at together
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": jnp.float32, "F16": jnp.float16, "BF16": jnp.bfloat16}
# the parts of our parameters' paths that Hugging Face calls something else
HF_PARTS = {
    "embedding": "embed_tokens.weight",
    "blocks": "layers",
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
    "attention": "self_attn",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "head": "lm_head",
    "kernel": "weight",
    "scale": "weight",
}
# where a model that reads images, too, keeps its text model, and what lies beside it
TEXT_MODELS = {"language_model.": "", "model.language_model.": "model."}
TOWERS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
# by where the family has its norms
MLP_NORM = {"before": "post_attention_layernorm", "both": "pre_feedforward_layernorm"}
# stored as one tensor where the family says so, in this order along the outputs
FUSED = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: checked now, read later.

    Attributes:
        file: where it is stored.
        shape: in Hugging Face's layout.
        read: reads the values, into memory of their own.
    """

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def default_dtype() -> jnp.dtype:
    """float32 on CPU, where every bfloat16 matmul would convert its weights again; bfloat16 on GPU and TPU."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def tensor_name(path: tuple[Any, ...], family: Family) -> str:
    """Hugging Face's name of a parameter: ("blocks", 0, "mlp", "up", "bias") is "model.layers.0.mlp.up_proj.bias"."""
    parts = HF_PARTS | {"mlp_norm": MLP_NORM.get(family.norms, "")}
    name = ".".join(parts.get(str(part), str(part)) for part in path)
    return name if path[0] == "head" else f"model.{name}"


def load_hf(
    directory: Path, *, dtype: jnp.dtype | None = None, mesh: Mesh | None = None, max_model_len: int | None = None
) -> tuple[LMConfig, nnx.GraphDef, nnx.State]:
    """The model in a Hugging Face directory.

    Args:
        directory: with config.json and model.safetensors, or shards and model.safetensors.index.json.
        dtype: of the parameters; `default_dtype()` if None.
        mesh: over whose axis "model" they are split.
        max_model_len: see `LMConfig.from_hf`.

    Returns:
        the config, and the split `Transformer`: `nnx.merge(graphdef, params)` is the module.

    Raises:
        FileNotFoundError: config.json, the weights or a shard is missing.
        ValueError: an unsupported config, a missing, unexpected, mis-shaped or truncated tensor or one that is not finite, or a
            mesh that does not divide the model.
    """
    content, stored = read_json(directory / "config.json"), _text_model(_stored(directory))
    config = LMConfig.from_hf(content, directory / "config.json", max_model_len)
    if content.get("model_type") in AROUND_TEXT:  # transformers writes its outer field whatever the inner one says
        config = replace(config, tie_embeddings="lm_head.weight" not in stored)
    return (config, *build(config, stored, directory, dtype, mesh))


def shapes(config: LMConfig, dtype: jnp.dtype) -> Transformer:
    """The `Transformer` with shapes and dtypes for parameters."""
    # one key serves all; tracing the counters of nnx.Rngs takes seconds for 30 layers
    keys: Any = SimpleNamespace(params=lambda: jax.random.key(0))
    return nnx.eval_shape(lambda: Transformer(config, dtype=dtype, rngs=keys))


def build(
    config: LMConfig, stored: Mapping[str, StoredTensor], where: Path, dtype: jnp.dtype | None, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, nnx.State]:
    """Graph definition and parameters of the `Transformer` whose tensors, under Hugging Face's names, are `stored`.

    Raises:
        ValueError: a tensor is missing, unexpected or mis-shaped, or the mesh does not divide the model; nothing has been read
            then. Or one holds values that are not finite.
    """
    if mesh is not None:
        check_model_parallel(config, mesh.shape[MODEL])
    dtype = default_dtype() if dtype is None else jnp.dtype(dtype)
    graphdef, abstract = nnx.split(shapes(config, dtype))
    leaves = nnx.to_flat_state(abstract)
    wanted = {tensor_name(path, config.form): _hf_shape(path, leaf.shape) for path, leaf in leaves}
    if config.form.fused:
        stored = _taken_apart(stored, wanted)
    mend = f"the weights must be those of the {config.family} model that the config describes: get both again"
    for name, shape in wanted.items():
        if name not in stored:
            raise ValueError(f"{where}: tensor {name!r} {list(shape)} is missing; {mend}")
        if stored[name].shape != shape:
            raise ValueError(
                f"{stored[name].file}: tensor {name!r} has shape {list(stored[name].shape)}, "
                f"but the config asks for {list(shape)}; {mend}"
            )
    for name, tensor in stored.items():
        if name not in wanted and not _ignorable(name, config):
            raise ValueError(f"{tensor.file}: unexpected tensor {name!r}; {mend}")

    def placed(path: tuple[Any, ...]) -> jax.Array:
        name = tensor_name(path, config.form)
        values = stored[name].read()
        if not _finite(values):
            raise ValueError(f"{stored[name].file}: tensor {name!r} holds NaN or infinity; get the file again")
        return _place(values, path, dtype, mesh)

    return graphdef, nnx.from_flat_state((path, leaf.replace(placed(path))) for path, leaf in leaves)


def save_hf(directory: Path, config: LMConfig, params: nnx.State) -> None:
    """Write config.json and model.safetensors, in the parameters' dtype, for `load_hf` and for transformers.

    Args:
        directory: made if missing; these two files are replaced.
        config: the shape of the model.
        params: the state of a `Transformer` of that shape, as `nnx.split` or `load_hf` give it.

    Raises:
        ValueError: the config has settings that its family does not have.
    """
    content = config.to_hf()
    tensors = {}
    for path, leaf in nnx.to_flat_state(params):
        array = np.asarray(leaf[...])
        tensors[tensor_name(path, config.form)] = np.ascontiguousarray(array.T if path[-1] == "kernel" else array)
    if config.form.fused:
        tensors = _joined(tensors)
    content["torch_dtype"] = str(tensors["model.embed_tokens.weight"].dtype)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})


def _text_model(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The text model's tensors, where it lies beside a tower for images; otherwise all."""
    if not any(name.startswith(tuple(TEXT_MODELS)) for name in stored):
        return dict(stored)
    own = {}
    for name, tensor in stored.items():
        prefix = next((prefix for prefix in TEXT_MODELS if name.startswith(prefix)), "")
        if not name.startswith(TOWERS):
            own[TEXT_MODELS.get(prefix, "") + name[len(prefix) :]] = tensor
    return own


def _fused_names(whole: str) -> list[str]:
    """The names of a fused tensor's parts; none for another tensor."""
    for fused, parts in FUSED.items():
        if f".{fused}." in whole:
            return [whole.replace(fused.rpartition(".")[2], part) for part in parts]
    return []


def _taken_apart(stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Fused tensors as their parts, each of which reads the whole and keeps its rows; one of a wrong size stays as it is."""
    apart = {}
    for name, tensor in stored.items():
        parts = [part for part in _fused_names(name) if part in wanted]
        bounds = np.cumsum([0] + [wanted[part][0] for part in parts])
        if not parts or tensor.shape != (bounds[-1], *wanted[parts[0]][1:]):
            apart[name] = tensor
            continue
        for part, first, last in zip(parts, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            rows = partial(lambda tensor, first, last: tensor.read()[first:last], tensor, first, last)
            apart[part] = StoredTensor(tensor.file, wanted[part], rows)
    return apart


def _joined(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The other way round: parts as one tensor."""
    joined = dict(tensors)
    for name in tensors:
        for fused, parts in FUSED.items():
            folder, _, short = fused.rpartition(".")
            if f".{folder}.{parts[0]}." in name:
                whole = name.replace(parts[0], short)
                joined[whole] = np.concatenate([joined.pop(part) for part in _fused_names(whole)])
    return joined


def _finite(array: np.ndarray) -> bool:
    """Whether all values are; in parts, for their memory's sake."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[first : first + CHECKED]).all() for first in range(0, flat.size, CHECKED))


def _place(array: np.ndarray, path: tuple[Any, ...], dtype: jnp.dtype, mesh: Mesh | None) -> jax.Array:
    """The parameter at `path`, where it lives, from an array in Hugging Face's layout; a device is sent its own part only."""
    transpose, sharding = path[-1] == "kernel", None
    parts: np.ndarray | jax.Array = array
    if mesh is not None:
        spec = parameter_spec(path, _hf_shape(path, array.shape), mesh.shape[MODEL])
        sharding, as_stored = (NamedSharding(mesh, s) for s in (spec, P(*reversed(spec)) if transpose else spec))
        parts = jax.make_array_from_callback(array.shape, as_stored, lambda part: array[part])
    # waited for: dispatched ahead, the arrays of many tensors would be in memory at a time
    return jax.block_until_ready(_turned(parts, transpose, dtype, sharding))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _turned(array: jax.Array, transpose: bool, dtype: jnp.dtype, sharding: NamedSharding | None) -> jax.Array:
    """Turned and converted on the devices: on a GPU that is far faster than on the host. Never the host's own memory."""
    turned = jnp.array(array.T if transpose else array, dtype)
    return turned if sharding is None else jax.lax.with_sharding_constraint(turned, sharding)


def _hf_shape(path: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path[-1] == "kernel" else shape


def _ignorable(name: str, config: LMConfig) -> bool:
    """Tensors that checkpoints carry although nothing reads them: a tied head, old Llamas' rotary frequencies."""
    return (config.tie_embeddings and name == "lm_head.weight") or name.endswith("rotary_emb.inv_freq")


def _stored(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a directory by name, from its one file or from all shards of its index."""
    if (directory / SINGLE).is_file():
        return _read_header(directory / SINGLE)
    index = directory / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{directory}: neither {SINGLE} nor {INDEX} is there; only safetensors weights are read")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: field 'weight_map' is missing or empty; download the file again")
    stored: dict[str, StoredTensor] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ValueError(
                f"{index}: 'weight_map' has {shard!r} for {name!r}, and not a file's name; download the file again"
            )
    for shard in sorted(set(weight_map.values())):
        if not (directory / shard).is_file():
            raise FileNotFoundError(f"{directory / shard} is missing, but {index} lists it; download the shard")
        stored |= _read_header(directory / shard)
    for name, shard in weight_map.items():
        if name not in stored:
            raise ValueError(f"{directory / shard}: tensor {name!r} is missing, but {index} lists it there")
    return stored


def _read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file: 8 bytes of header length, a JSON header, then the values.

    What a header may say is checked by the format's own library: places that overlap or lie outside, fields that lack.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        if start > size:
            raise ValueError(f"{file} is truncated or not a safetensors file: its header is incomplete; download it again")
        try:
            header = json.loads(stream.read(start - 8))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not a safetensors file: its header is not JSON; download it again") from error
    if isinstance(header, dict):
        _check_sizes(file, header, start, size)
    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{file} is not a sound safetensors file ({error}); download it again") from error
    header.pop("__metadata__", None)
    return {name: _stored_tensor(file, name, entry, start) for name, entry in header.items()}


def _check_sizes(file: Path, header: dict, start: int, size: int) -> None:
    """Raises ValueError, which names the tensor, for one that ends behind the file's end or whose bytes are not its shape's."""
    for name, entry in header.items():
        match entry:
            case {"data_offsets": [_, int(end)]} if start + end > size:
                raise ValueError(
                    f"{file} is truncated: tensor {name!r} ends at byte {start + end} of {size}; download the file again"
                )
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if kind in DTYPES:
                if all(isinstance(n, int) for n in shape) and end - begin != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
                    raise ValueError(f"{file}: tensor {name!r} {shape} has {end - begin} bytes; download the file again")


def _stored_tensor(file: Path, name: str, entry: dict, start: int) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{file}: tensor {name!r} has dtype {entry['dtype']}; supported: {', '.join(DTYPES)}")
    shape, dtype = tuple(entry["shape"]), np.dtype(DTYPES[entry["dtype"]])
    begin = start + entry["data_offsets"][0]
    return StoredTensor(file, shape, lambda: _read(file, begin, shape, dtype))


def _read(file: Path, place: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = paged(shape, dtype)
    with file.open("rb") as stream:
        stream.seek(place)
        if stream.readinto(values.reshape(-1).view(np.uint8).data) < values.nbytes:
            raise ValueError(f"{file} was cut short while it was read; download it again")
    return values


def paged(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros in pages of its own: the system has them back at once when it is freed, unlike a heap's, and XLA's CPU
    backend takes it as it lies, without a copy, because it begins at a page.
    """
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE)
    return np.frombuffer(pages, dtype).reshape(shape)
