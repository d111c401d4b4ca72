"""Tokenizers and stop tokens, from Hugging Face directories and from the metadata of GGUF files.

A GGUF vocabulary is rebuilt with the `tokenizers` library: transformers' own conversion has moved between its versions
and splits numbers in some texts otherwise than the models here were trained.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from adaptive_jax.lm.config import read_json
from adaptive_jax.lm.prompts import encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
CONTROL, USER_DEFINED = 3, 4  # GGUF's token types
# llama.cpp's names of the rules that cut a text into words before byte-pair merges; each is its models' tokenizer.json
DIGITS, LLAMA3, QWEN2 = "smollm", ("llama-bpe", "llama3", "llama-v3"), "qwen2"
KNOWN_WORDS = (DIGITS, *LLAMA3, QWEN2)
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace("{1,3}", "")


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a Hugging Face directory, chat template included.

    Raises:
        FileNotFoundError, ValueError: the directory holds no tokenizer, or none that can be read without PyTorch.
    """
    if not any((directory / name).is_file() for name in VOCABULARIES):  # transformers would make up an empty one
        raise FileNotFoundError(f"{directory}: none of {', '.join(VOCABULARIES)} is there; add the model's tokenizer")
    try:
        return transformers_module().AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:
        raise ValueError(
            f"{directory}: the tokenizer could not be read ({type(error).__name__}: {error}); "
            "get the model's tokenizer.json and tokenizer_config.json again"
        ) from error


def check_ids(tokenizer: Any, vocab_size: int, where: Path) -> None:
    """Raises ValueError where an added token, or what every prompt has, is beyond the vocabulary, or no prompt can be made.

    Its message begins with `where`. Of other tokens, `encode` tells when a prompt has one.
    """
    for token, index in tokenizer.get_added_vocab().items():
        if index >= vocab_size:
            raise ValueError(
                f"{where}: the tokenizer's added token {token!r} has the id {index}, beyond the model's vocabulary of "
                f"{vocab_size}: take the tokenizer that belongs to the weights"
            )
    try:
        encode(tokenizer, render(tokenizer, "1"), vocab_size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def stop_ids(directory: Path, vocab_size: int, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a completion, sorted.

    All of generation_config.json's `eos_token_id`; where that is not given config.json's; else the tokenizer's.

    Raises:
        ValueError: none is given anywhere, or one is not an id of the vocabulary. Names file and field.
    """
    for file in (directory / "generation_config.json", directory / "config.json"):
        ids = read_json(file).get("eos_token_id") if file.is_file() else None
        if ids is not None:
            return checked_stop_ids(ids if isinstance(ids, list) else [ids], vocab_size, f"{file}: 'eos_token_id'")
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return checked_stop_ids(ids, vocab_size, f"{directory}: 'eos_token_id' of generation_config.json")


def checked_stop_ids(ids: list[Any], vocab_size: int, where: str) -> tuple[int, ...]:
    """`ids` sorted, without repeats.

    Raises:
        ValueError: there is none, or one is not an id of the vocabulary. Its message begins with `where`.
    """
    if not ids:
        raise ValueError(f"{where} is missing, so completions could never end; add the model's stop tokens")
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise ValueError(f"{where} holds {token!r}, which is not a token of the vocabulary of {vocab_size}")
    return tuple(sorted(set(ids)))


def gguf_tokenizer(metadata: dict[str, Any], where: Path) -> "PreTrainedTokenizerBase":
    """The byte-level BPE tokenizer in a GGUF file's metadata, with the file's chat template if it has one.

    Raises:
        ValueError: another kind of tokenizer, or an unknown rule for cutting words. Names the file and the field.
    """
    kind, words = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or words not in KNOWN_WORDS:
        raise ValueError(
            f"{where}: 'tokenizer.ggml.model' {kind!r} with 'tokenizer.ggml.pre' {words!r} is not supported "
            f"('gpt2' with one of {', '.join(KNOWN_WORDS)} is); load the model's Hugging Face directory instead"
        )
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=words in LLAMA3))
    if words == DIGITS:
        first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(True)
    else:
        first = pre_tokenizers.Split(Regex(QWEN2_WORDS if words == QWEN2 else LLAMA3_WORDS), "isolated")
    if words == QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words == DIGITS)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type", [])
    for token, token_type in zip(tokens, types, strict=bool(types)):
        if token_type == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif token_type == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    special = {role: tokens[token] for role, token in ids.items() if token is not None}
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special['bos_token']} $A", special_tokens=[(special["bos_token"], ids["bos_token"])]
        )
    return transformers_module().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=metadata.get("tokenizer.chat_template"), **special
    )


def transformers_module() -> Any:
    """The transformers package: imported late, as that takes seconds, and without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
