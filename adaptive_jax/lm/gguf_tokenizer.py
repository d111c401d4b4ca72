"""The tokenizer in the metadata of a GGUF file, rebuilt with the `tokenizers` library.

transformers' own conversion has moved between its versions, and splits numbers in some texts otherwise than the models here
were trained. There are two kinds: byte-level BPE ("gpt2"), whose file has the merges but only a name for the rule that cuts a
text into words; and SentencePiece's BPE ("llama"), whose merges follow from its vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from adaptive_jax.lm.tokenizer import checked_stop_ids, transformers_module

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's token types
BLANK = "\u2581"  # what SentencePiece writes for a blank
# What else ends a turn, where a file names one token only: all that llama.cpp knows by their text of these families.
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
UNSTRIPPED = ("<unk>", "<s>", "<|endoftext|>")  # Phi-3's other special tokens take the blanks behind them in

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+SUFFIX|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*SUFFIX"
    r"|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Words:
    """A rule that cuts a text into words before byte-pair merges, as its models' tokenizer.json has it.

    Attributes:
        pattern: of words; None for digits one by one, and GPT-2's words of the rest.
        ignore_merges: a word of the vocabulary is one token, whatever its merges are.
        composed: the text is normalised (NFC) before.
    """

    pattern: str | None
    ignore_merges: bool = False
    composed: bool = False


LLAMA3 = Words(LLAMA3_WORDS, ignore_merges=True)
# by llama.cpp's name of the rule
WORDS = {
    "smollm": Words(None),
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "smaug-bpe": Words(LLAMA3_WORDS),  # SmolLM3
    "dbrx": Words(LLAMA3_WORDS),  # OLMo 2 and 3, Phi-4
    "qwen2": Words(LLAMA3_WORDS.replace("{1,3}", ""), composed=True),
    "gpt-4o": Words(CASED_WORDS.replace("SUFFIX", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?").replace("DIGITS", "{1,3}")),  # Phi-4-mini
    "tekken": Words(CASED_WORDS.replace("SUFFIX", "").replace("DIGITS", ""), ignore_merges=True),  # Ministral
}


def gguf_tokenizer(metadata: dict[str, Any], where: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in a GGUF file's metadata, with the file's chat template if it has one.

    Raises:
        ValueError: another kind of tokenizer, an unknown rule for cutting words, or a part of it is missing. Names the file and
            the field.
    """
    kind, words = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and words not in WORDS):
        raise ValueError(
            f"{where}: 'tokenizer.ggml.model' {kind!r} with 'tokenizer.ggml.pre' {words!r} is not supported ('llama' is, and "
            f"'gpt2' with one of {', '.join(WORDS)}); load the model's Hugging Face directory instead"
        )
    for field in ("tokens", "merges") if kind == "gpt2" else ("tokens", "scores"):
        if f"tokenizer.ggml.{field}" not in metadata:
            raise ValueError(f"{where}: metadata field 'tokenizer.ggml.{field}' is missing; convert the model to GGUF again")
    family = str(metadata.get("general.architecture"))
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if kind == "gpt2":
        tokenizer = _byte_level(_vocabulary(tokens, types), metadata["tokenizer.ggml.merges"], WORDS[str(words)])
    else:
        tokenizer = _sentencepiece(metadata, types, family)
    vocabulary = tokenizer.get_vocab()
    for token, token_type in zip(tokens, types, strict=True):
        if token_type == CONTROL:
            strips = kind == "llama" and family == "phi3" and token not in UNSTRIPPED
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True, rstrip=strips)])
        elif token_type == USER_DEFINED and token in vocabulary:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in names.items()}
    special = {role: tokens[token] for role, token in ids.items() if token is not None}
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and "bos_token" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special['bos_token']} $A", special_tokens=[(special["bos_token"], ids["bos_token"])]
        )
    return transformers_module().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=metadata.get("tokenizer.chat_template"), **special
    )


def gguf_stop_ids(metadata: dict[str, Any], vocab_size: int, where: Path) -> tuple[int, ...]:
    """The tokens that end a completion, sorted: those that a GGUF file names, and what its families end a turn with.

    Raises:
        ValueError: the file names none, or one that is not an id of the vocabulary. Names file and field.
    """
    fields = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    named = checked_stop_ids([metadata[f] for f in fields if f in metadata], vocab_size, f"{where}: {fields[0]!r}")
    types = metadata.get("tokenizer.ggml.token_type") or []
    pairs = enumerate(zip(metadata["tokenizer.ggml.tokens"], types, strict=False))
    ends = [index for index, (token, kind) in pairs if token in TURN_ENDS and kind in (CONTROL, USER_DEFINED)]
    return tuple(sorted({*named, *ends}))


def _vocabulary(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Tokens and their ids, without those that only fill the vocabulary up."""
    return {token: index for index, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}


def _byte_level(vocabulary: dict[str, int], merges: Sequence[str], words: Words) -> Tokenizer:
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=words.ignore_merges))
    if words.pattern is None:
        first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(True)
    else:
        first = pre_tokenizers.Split(Regex(words.pattern), "isolated")
    if words.composed:
        tokenizer.normalizer = normalizers.NFC()
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: dict[str, Any], types: Sequence[int], family: str) -> Tokenizer:
    """Gemma's runs of blanks are stored as blanks, and its merges go by place in the vocabulary; others' by score."""
    tokens, gemma = metadata["tokenizer.ggml.tokens"], family.startswith("gemma")
    if gemma:
        tokens = [BLANK * len(token) if token and not token.strip(" ") else token for token in tokens]
    vocabulary = _vocabulary(tokens, types)
    scores = range(0, -len(tokens), -1) if gemma else metadata["tokenizer.ggml.scores"]
    merges = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind in (NORMAL, USER_DEFINED):
            cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = [
                (vocabulary[left], vocabulary[right]) for left, right in cuts if left in vocabulary and right in vocabulary
            ]
            merges += [(-score, left, right) for left, right in known]
    pairs = [(tokens[left], tokens[right]) for _, left, right in sorted(merges)]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    named = {} if unknown is None else {"unk_token": tokens[unknown]}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, fuse_unk=True, byte_fallback=True, **named))
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", not gemma)
    decoded = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if family == "phi3" and prefixed:  # a blank at the start of each text between special tokens
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    elif gemma:
        tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, "first" if prefixed else "never", split=False)
    tokenizer.decoder = decoders.Sequence(decoded + ([decoders.Strip(" ", 1, 0)] if prefixed else []))
    return tokenizer
