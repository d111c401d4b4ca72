"""The 25 verifiable instructions of IFEval (arXiv 2311.07911, Table 1): the arguments each takes and what following it means.

The paper's definitions leave much open; where they do, a check decides as the reference implementation
(google-research/instruction_following_eval) does, so that verdicts can be compared. Its surprises stay: keywords are regular
expressions and match within words, a bullet of two levels is still one, and text without letters is in every language.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adaptive_jax.tasks import text_units
from adaptive_jax.tasks.problem import MalformedRow

RELATIONS = ("less than", "at least")
CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@dataclass(frozen=True)
class Instruction:
    """One instruction type.

    Attributes:
      check: whether a text, which is not blank, follows the instruction; takes the arguments by name.
      arguments: by name, what reads a value from a row; it raises ValueError with what the value must be.
      needs: the module of the extra `tasks` that the check imports, if any.
    """

    check: Callable[..., bool]
    arguments: Mapping[str, Callable[[Any], Any]]
    needs: str | None = None

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments from a row's values; null ones count as missing.

        Raises:
          MalformedRow: an argument is missing, unknown or of the wrong kind.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if unknown := given.keys() - self.arguments.keys():
            takes = ", ".join(map(repr, self.arguments)) or "no argument"
            raise MalformedRow(f"has no argument {', '.join(map(repr, sorted(unknown)))}: it takes {takes}")
        read = {}
        for name, reader in self.arguments.items():
            if name not in given:
                raise MalformedRow(f"no {name!r}; it takes {', '.join(map(repr, self.arguments))}")
            try:
                read[name] = reader(given[name])
            except ValueError as fault:
                raise MalformedRow(f"{name!r} is {given[name]!r}; {fault}") from None
        return read


INSTRUCTIONS: dict[str, Instruction] = {}


def _instruction(name: str, needs: str | None = None, **arguments: Callable[[Any], Any]) -> Callable[[Callable], Callable]:
    def register(check: Callable[..., bool]) -> Callable[..., bool]:
        INSTRUCTIONS[name] = Instruction(check, arguments, needs)
        return check

    return register


# What arguments may be


def _number(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise ValueError(f"give a whole number from {least}")
    return int(value)


def _ordinal(value: Any) -> int:
    return _number(value, least=1)


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("give a string that is not blank")
    return value


def _list(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(word, str) and word.strip() for word in value):
        raise ValueError("give a list of strings, none of them blank")
    return list(value)


def _letter(value: Any) -> str:
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError("give one character")
    return value.strip()


def _relation(value: Any) -> str:
    if value not in RELATIONS:
        raise ValueError(f"give {' or '.join(map(repr, RELATIONS))}")
    return str(value)


def _language(value: Any) -> str:
    known = text_units.languages()
    if value not in known:
        raise ValueError(f"give one of {', '.join(known)}")
    return str(value)


# What the checks share


def _holds(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


@functools.lru_cache(4096)
def _expression(source: str) -> str:
    """`source` as the regular expression that the reference takes it for, or as literal text where it is none ("C++")."""
    try:
        re.compile(source)
    except re.error:
        return re.escape(source)
    return source


def _parts(text: str, separator: str) -> list[str] | None:
    """What stands between separators, a blank first and last part left out; None where a part between is blank."""
    parts = re.split(separator, text)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return None
    return [part for part in parts if part.strip()]


# Keywords


@_instruction("keywords:existence", keywords=_list)
def _existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(_expression(keyword), text, re.IGNORECASE) for keyword in keywords)


@_instruction("keywords:frequency", keyword=_words, frequency=_number, relation=_relation)
def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(_expression(keyword.strip()), text, re.IGNORECASE)), relation, frequency)


@_instruction("keywords:forbidden_words", forbidden_words=_list)
def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{_expression(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


@_instruction("keywords:letter_frequency", letter=_letter, let_frequency=_number, let_relation=_relation)
def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


# Language


@_instruction("language:response_language", needs="langdetect", language=_language)
def _response_language(text: str, language: str) -> bool:
    return text_units.language(text) in (language, None)


# Length


@_instruction("length_constraints:number_words", num_words=_number, relation=_relation)
def _number_words(text: str, num_words: int, relation: str) -> bool:
    return _holds(text_units.count_words(text), relation, num_words)


@_instruction("length_constraints:number_sentences", needs="punkt", num_sentences=_number, relation=_relation)
def _number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _holds(text_units.count_sentences(text), relation, num_sentences)


@_instruction("length_constraints:number_paragraphs", num_paragraphs=_number)
def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    paragraphs = _parts(text, r"\s?\*\*\*\s?")
    return paragraphs is not None and len(paragraphs) == num_paragraphs


@_instruction("length_constraints:nth_paragraph_first_word", num_paragraphs=_number, nth_paragraph=_ordinal, first_word=_words)
def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    # the n-th counts blank ones, their number does not
    if count != num_paragraphs or nth_paragraph > count or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"""[.,?!'"]""", word)[0].lower() == first_word.lower()


# Detectable content


@_instruction("detectable_content:number_placeholders", num_placeholders=_number)
def _number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


@_instruction("detectable_content:postscript", postscript_marker=_words)
def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return bool(re.search(spaced.get(marker) or _expression(marker.lower()), text.lower()))


# Detectable format


@_instruction("detectable_format:number_bullet_lists", num_bullets=_number)
def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


@_instruction("detectable_format:constrained_response")
def _constrained_response(text: str) -> bool:
    return any(answer in text for answer in CONSTRAINED_ANSWERS)


@_instruction("detectable_format:number_highlighted_sections", num_highlights=_number)
def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(section.strip("*").strip()) for section in single + double) >= num_highlights


@_instruction("detectable_format:multiple_sections", section_spliter=_words, num_sections=_number)
def _multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    splits = re.findall(rf"\s?{_expression(section_spliter.strip())}\s?\d+\s?", text)
    return len(splits) >= num_sections


@_instruction("detectable_format:json_format")
def _json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


@_instruction("detectable_format:title")
def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


# Combination


@_instruction("combination:two_responses")
def _two_responses(text: str) -> bool:
    responses = _parts(text, r"\*{6}")
    return responses is not None and len(responses) == 2 and responses[0].strip() != responses[1].strip()


@_instruction("combination:repeat_prompt", prompt_to_repeat=_words)
def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


# Change of case


@_instruction("change_case:english_capital", needs="langdetect")
def _english_capital(text: str) -> bool:
    return text.isupper() and text_units.language(text) in ("en", None)


@_instruction("change_case:english_lowercase", needs="langdetect")
def _english_lowercase(text: str) -> bool:
    return text.islower() and text_units.language(text) in ("en", None)


@_instruction("change_case:capital_word_frequency", capital_frequency=_number, capital_relation=_relation)
def _capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(text_units.count_capital_words(text), capital_relation, capital_frequency)


# Start and end, punctuation


@_instruction("startend:end_checker", end_phrase=_words)
def _end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_instruction("startend:quotation")
def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_instruction("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text
