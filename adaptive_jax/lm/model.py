"""The frozen language model as users hold it: `load_lm` finds and reads one, `LM` computes logits."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float32, Int32

from adaptive_jax.lm.config import LMConfig, read_json
from adaptive_jax.lm.decoder import TransformerDecoder
from adaptive_jax.lm.gguf import gguf_config, load_gguf, smollm2_file
from adaptive_jax.lm.gguf_tokenizer import gguf_stop_ids, gguf_tokenizer
from adaptive_jax.lm.tokenizer import check_ids, load_tokenizer, stop_ids
from adaptive_jax.lm.weights import load_hf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = {name: Path(__file__).parent / name for name in ("tiny", "fork")}
TINY = EMBEDDED["tiny"]
UNUSED_FILES = ["consolidated*"]  # Mistral's own form of the same weights
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
ACCEPTED = (
    "accepted are 'tiny', 'fork', 'smollm2', a directory with config.json and safetensors weights, a .gguf file, "
    "and a hub id such as 'Qwen/Qwen3-4B'"
)


@dataclass(frozen=True, eq=False)
class LM:
    """A frozen language model.

    Attributes:
        name: what `load_lm` was asked for; a path's last part.
        config: its shape.
        tokenizer: a Hugging Face tokenizer; it holds the chat template where the model has one.
        stop_ids: the tokens that end a completion.
        graphdef, params: the split `Transformer`.
        mesh: the devices that the parameters are on, split over its axis "model"; None if they are on one device.
        tokens: the ids that the tokenizer has; the others, which pad a vocabulary, are never drawn. None for all.
    """

    name: str
    config: LMConfig
    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: tuple[int, ...]
    graphdef: nnx.GraphDef
    params: nnx.State
    mesh: Mesh | None = None
    tokens: Bool[Array, " vocab"] | None = None

    @property
    def num_parameters(self) -> int:
        """Number of scalars in the parameters; a tied head counts once."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def decoder(self) -> TransformerDecoder:
        """The model as the decoding loop takes it."""
        return TransformerDecoder(self.params, self.graphdef, self.mesh, self.tokens)

    def __call__(
        self, tokens: ArrayLike, mask: ArrayLike
    ) -> tuple[Float32[Array, "rows tokens vocab"], Float32[Array, "rows tokens width"]]:
        """Logits and hidden states of whole texts, compiled once per shape.

        Args:
            tokens: int32 [B, T], ids of the vocabulary.
            mask: bool [B, T], which tokens are real. Padding may be left or right; positions count real tokens only.

        Returns:
            Logits, and hidden states after the final norm. At padding they mean nothing.

        Raises:
            ValueError: tokens and mask are not of one two-dimensional shape, or longer than the model's context.
        """
        tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
        if tokens.ndim != 2 or tokens.shape != mask.shape:
            raise ValueError(f"tokens {tokens.shape} and mask {mask.shape} must have one shape [B, T]")
        if tokens.shape[1] > self.config.max_positions:
            raise ValueError(f"{tokens.shape[1]} tokens exceed the context of {self.name}, {self.config.max_positions}")
        return _forward(self.graphdef, self.params, tokens, mask)


@partial(jax.jit, static_argnums=0)
def _forward(
    graphdef: nnx.GraphDef, params: nnx.State, tokens: Int32[Array, "rows tokens"], mask: Bool[Array, "rows tokens"]
) -> tuple[Float32[Array, "rows tokens vocab"], Float32[Array, "rows tokens width"]]:
    model = nnx.merge(graphdef, params)
    positions = jnp.maximum(jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1, 0)
    causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
    hidden, _ = model(tokens, positions, causal[None] & mask[:, None, :])
    return model.logits(hidden), hidden.astype(jnp.float32)


def load_lm(
    source: str | Path, *, dtype: jnp.dtype | None = None, mesh: Mesh | None = None, max_model_len: int | None = None
) -> LM:
    """Load a frozen language model of one of the families in `adaptive_jax.lm.families`.

    Args:
        source: "tiny" or "fork" (the models in this package), "smollm2" (SmolLM2-135M-Instruct, an extra), a Hugging Face
            directory, a .gguf file (its architecture is in `adaptive_jax.lm.gguf_families`), or a hub id.
        dtype: of parameters and matmuls; float32 on CPU and bfloat16 on GPU and TPU if None.
        mesh: with an axis "model", over which the parameters are split (`adaptive_jax.lm.sharding`); each device is sent its
            own part only. None for one device.
        max_model_len: most tokens of a prompt and its completion together; None for the model's context. Phi-3 and Phi-4-mini
            with 128k have rotary factors for texts up to 4096 tokens, which are used if None, and others, which are used for
            all texts if this is more: a text is computed in one way, whatever stands beside it.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such model, or a file or package of it is missing.
        ValueError: a file is broken or asks for something unsupported (names the file and the tensor or field), the mesh does
            not divide the model, or its context is shorter than `max_model_len`.
    """
    name = str(source)
    if name == "smollm2":
        return _load_gguf(smollm2_file(), name, dtype, mesh, max_model_len)
    if name in EMBEDDED:
        return _load_directory(EMBEDDED[name], name, dtype, mesh, max_model_len)
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return _load_gguf(path, path.stem, dtype, mesh, max_model_len)
    if path.is_dir():
        return _load_directory(path, path.resolve().name, dtype, mesh, max_model_len)
    return _load_directory(_from_hub(name), name, dtype, mesh, max_model_len)


def load_config(source: str | Path, max_model_len: int | None = None) -> LMConfig:
    """The shape of a model that `load_lm` would load; of a hub id, config.json alone is downloaded.

    Raises:
        FileNotFoundError, ValueError: as `load_lm` raises them.
    """
    path = EMBEDDED.get(str(source), Path(source).expanduser())
    if str(source) == "smollm2" or path.suffix == ".gguf":
        return gguf_config(smollm2_file() if str(source) == "smollm2" else path, max_model_len)
    file = (path if path.is_dir() else _from_hub(str(source), ["config.json"])) / "config.json"
    return LMConfig.from_hf(read_json(file), file, max_model_len)


def _load_directory(directory: Path, name: str, dtype: jnp.dtype | None, mesh: Mesh | None, max_model_len: int | None) -> LM:
    config, graphdef, params = load_hf(directory, dtype=dtype, mesh=mesh, max_model_len=max_model_len)
    tokenizer = load_tokenizer(directory)
    check_ids(tokenizer, config.vocab_size, directory)
    stops, tokens = stop_ids(directory, config.vocab_size, tokenizer), _tokens(tokenizer, config.vocab_size, mesh)
    return LM(name, config, tokenizer, stops, graphdef, params, mesh, tokens)


def _tokens(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, mesh: Mesh | None) -> Bool[Array, " {vocab_size}"] | None:
    """`LM.tokens`, on all devices of the mesh."""
    known = np.isin(np.arange(vocab_size), [*tokenizer.get_vocab().values()])
    if known.all():
        return None
    return jnp.asarray(known) if mesh is None else jax.device_put(known, NamedSharding(mesh, PartitionSpec()))


def _load_gguf(file: Path, name: str, dtype: jnp.dtype | None, mesh: Mesh | None, max_model_len: int | None) -> LM:
    metadata, config, graphdef, params = load_gguf(file, dtype=dtype, mesh=mesh, max_model_len=max_model_len)
    stops = gguf_stop_ids(metadata, config.vocab_size, file)
    tokenizer = gguf_tokenizer(metadata, file)
    check_ids(tokenizer, config.vocab_size, file)
    return LM(name, config, tokenizer, stops, graphdef, params, mesh, _tokens(tokenizer, config.vocab_size, mesh))


def _from_hub(name: str, files: list[str] = HUB_FILES) -> Path:
    """The local copy of a hub model, of which files of such names are downloaded if need be."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(f"no model {name!r}; {ACCEPTED}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=files, ignore_patterns=UNUSED_FILES))
    except Exception as error:
        raise FileNotFoundError(
            f"no model {name!r}: it is not a local directory, and the hub gave none ({type(error).__name__}: {error}); "
            f"{ACCEPTED}"
        ) from error
