"""Tokenizers and stop tokens of Hugging Face directories."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_jax.lm.config import read_json
from adaptive_jax.lm.prompts import encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


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


def transformers_module() -> Any:
    """The transformers package: imported late, as that takes seconds, and without its advice to install PyTorch."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
