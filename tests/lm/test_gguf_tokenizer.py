"""Tokenizers of GGUF files, against transformers' and against SentencePiece's own way of merging."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers.integrations.gguf import convert_gguf_tokenizer
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from adaptive_jax.lm.gguf_tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED, gguf_stop_ids, gguf_tokenizer

FILE = Path("model.gguf")
UNKNOWN, BYTE = 2, 6
WORDS = [
    "th",
    "he",
    "the",
    "\u2581the",
    "\u2581t",
    "er",
    "ther",
    "\u2581\u2581",
    "in",
    "ing",
    "\u2581in",
    "12",
    "e\u2581",
    "ee",
    "eee",
]


def sentencepiece(architecture: str, **entries: Any) -> dict[str, Any]:
    """Metadata of a small vocabulary; merges of later words are worse."""
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,", "\u2581"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, *letters, "[PAD1]"]
    types = [UNKNOWN, *[CONTROL] * 4, *[BYTE] * 256, *[NORMAL] * len(WORDS + letters), UNUSED]
    scores = [0.0] * 261 + [-float(index) for index in range(len(WORDS + letters))] + [-1e4]
    keys = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    written = {f"tokenizer.ggml.{key}": value for key, value in (keys | ids | entries).items()}
    return {"general.architecture": architecture} | written


def merged(metadata: dict[str, Any], text: str) -> list[int]:
    """What SentencePiece does: of all neighbours that are a token together, the best ones are joined, the leftmost first."""
    ids = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    scores, pieces = metadata["tokenizer.ggml.scores"], list(text.replace(" ", "\u2581"))
    while True:
        pairs = [(scores[ids[a + b]], -at) for at, (a, b) in enumerate(pairwise(pieces)) if a + b in ids]
        if not pairs:
            break
        at = -max(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    known = [[ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()] for piece in pieces]
    return [index for piece in known for index in piece]


TEXTS = ["the other thing", "  in  the  12 ether.", "thee\u00e9 eee eeee therein", "the\n\nin", " in"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("architecture", "prefix"), [("llama", True), ("llama", False), ("gemma3", False), ("phi3", True)])
def test_a_sentencepiece_vocabulary_is_merged_as_sentencepiece_does(architecture: str, prefix: bool, text: str) -> None:
    metadata = sentencepiece(architecture, add_space_prefix=prefix, add_bos_token=True)
    tokenizer = gguf_tokenizer(metadata, FILE)
    blank = " " if prefix and not (architecture == "llama" and text.startswith(" ")) else ""  # as transformers has it
    assert tokenizer(text)["input_ids"] == [1, *merged(metadata, blank + text)]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == (
        text if blank or not prefix else text[1:]
    )


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "phi3"])
def test_a_sentencepiece_vocabulary_is_that_of_transformers(architecture: str) -> None:
    metadata = sentencepiece(architecture)
    if architecture.startswith("gemma"):  # whose runs of blanks are stored as such
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        place = tokens.index("\u2581\u2581")
        tokens[place], types[place] = "  ", USER_DEFINED
        metadata["tokenizer.ggml.add_space_prefix"] = False
    theirs, _ = convert_gguf_tokenizer(
        architecture,
        {"tokenizer_type": "llama"} | {key.split(".")[-1]: value for key, value in metadata.items()},
    )
    ours = gguf_tokenizer(metadata, FILE)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours(text, add_special_tokens=False)["input_ids"] == ids


def test_phi3s_special_tokens_take_the_blanks_behind_them_in() -> None:
    ids = gguf_tokenizer(sentencepiece("phi3"), FILE)("<|user|>\nthe<|end|>\n", add_special_tokens=False)["input_ids"]
    assert ids == [3, 261 + WORDS.index("\u2581the"), 4]


def test_tokens_that_fill_a_vocabulary_up_are_none() -> None:
    metadata = sentencepiece("llama")
    last = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert sorted(gguf_tokenizer(metadata, FILE).get_vocab().values()) == list(range(last))


def test_a_completion_ends_with_the_ends_of_turns_that_a_file_does_not_name() -> None:
    metadata = sentencepiece("phi3")
    assert gguf_stop_ids(metadata, 400, FILE) == (2, 4)
    assert gguf_stop_ids(metadata | {"tokenizer.ggml.eot_token_id": 3}, 400, FILE) == (2, 3, 4)
    metadata["tokenizer.ggml.token_type"][4] = NORMAL  # a word like any other
    assert gguf_stop_ids(metadata, 400, FILE) == (2,)
    del metadata["tokenizer.ggml.eos_token_id"]
    with pytest.raises(
        ValueError, match=r"model.gguf: 'tokenizer.ggml.eos_token_id' is missing, so completions could never end"
    ):
        gguf_stop_ids(metadata, 400, FILE)


@pytest.mark.parametrize("words", ["llama-bpe", "smaug-bpe", "dbrx", "qwen2", "gpt-4o", "tekken"])
def test_words_are_cut_as_transformers_cuts_them(words: str) -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": words,
        "tokenizer.ggml.tokens": [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<e>"],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [NORMAL] * 256 + [CONTROL],
    }
    ours = gguf_tokenizer(metadata, FILE).backend_tokenizer.pre_tokenizer
    entries = {"tokenizer_type": "gpt2", "pre_tokenizer_type": words, "tokens": metadata["tokenizer.ggml.tokens"], "merges": []}
    theirs = convert_gguf_tokenizer("any", entries)[0].pre_tokenizer
    for text in (
        "They'RE HTTPServer's 12345 x\n\n  1!",
        "na\u00efve \u6f22\u5b57 a/b//\n  if x:\n\treturn 3.14",
        "O'Neil ISN'T",
    ):
        assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)


def test_other_tokenizers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.gguf: 'tokenizer.ggml.model' 't5' .* is not supported"):
        gguf_tokenizer({"tokenizer.ggml.model": "t5"}, FILE)
    with pytest.raises(ValueError, match=r"'gpt2' with 'tokenizer.ggml.pre' 'bloom' is not supported"):
        gguf_tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "bloom"}, FILE)
    with pytest.raises(ValueError, match=r"metadata field 'tokenizer.ggml.scores' is missing"):
        gguf_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}, FILE)


def test_a_llama3_tokenizer_takes_three_digits_at_a_time_and_begins_with_bos() -> None:
    tokens = ["<bos>", *"0123456789", "12", "123", "<eos>"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, *[1] * 12, 3],
        "tokenizer.ggml.merges": ["1 2", "12 3"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 13,
        "tokenizer.ggml.add_bos_token": True,
    }
    tokenizer = gguf_tokenizer(metadata, FILE)
    ids = tokenizer("12312<eos>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "123", "12", "<eos>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "12312"


def test_a_qwen2_tokenizer_cuts_as_transformers_own_and_takes_digits_singly() -> None:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "Ġ1", "he", "'re", "<|im_end|>"]
    merges = [("1", "2"), ("Ġ", "1"), ("h", "e"), ("r", "e"), ("'", "re")]
    tokens.insert(0, "re")
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*[1] * (len(tokens) - 1), 3],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }
    ours = gguf_tokenizer(metadata, FILE)
    vocabulary = {token: index for index, token in enumerate(tokens[:-1])}
    theirs = Qwen2Tokenizer(vocab=vocabulary, merges=merges, unk_token=None, eos_token=None, pad_token=None)
    for text in ("they're 12 124  x\n\n 1!", "nai\u0308ve \u6f22\u5b57"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.convert_ids_to_tokens(ours("12<|im_end|>")["input_ids"]) == ["1", "2", "<|im_end|>"]
