r"""Answers that a computer algebra system would take for more, or for less, than they say.

math-verify is generous: it drops an ellipsis, whatever a last `\text{}` says, the base of a number, one side of `\approx`,
and it takes a set for an interval. Whoever is rewarded by it could list what comes to mind, or repeat the question.
Each rule here names something that decides what an answer says; an answer that has it where the gold answer does not is
wrong. That is strict on purpose: a right answer that is missed costs less than a wrong one that is rewarded.
"""

import re

# what joins answers into a list; math-verify reads both as a comma
_JOINS = ("", ",", "and", "or")
# a text that holds one of these is no unit, and changes or takes back the number before it
_NOT_OF_UNITS = re.compile(
    r"(?<![a-z])(?:or|and|not?|but|to|is|are|isn|if|than|except|half|dozen|hundred|thousand|[mbtr]+illion)(?![a-z])", re.I
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"[A-Za-z°][A-Za-z°./ -]*")
_DROPPED = re.compile(r"\\[lcdv]?dots[a-z]?|\.\.|…|\\(?:approx|simeq)|answer", re.IGNORECASE)
_BASE = re.compile(r"[0-9][A-F]*\s*_\s*\{?\s*([0-9]+)\s*\}?\s*$")
_SPACE = re.compile(r"\\[,:;> ]|\\q?quad(?![a-zA-Z])|[\s~]")
_APART = re.compile(r"[0-9]\.? +\.?[0-9]")
_BRACED_APART = re.compile(r"(?:^|[^\w}\]])\{[0-9.]+\}\s*\{[0-9.]+\}")
_POWER = re.compile(r"\^\s*\{?[0-9]\}?")
_NUMBER_TEXT_NUMBER = re.compile(r"[0-9][^0-9]*\0[^0-9]*[0-9]")
_OPENING = re.compile(r"\s*(?:\\[bB]igg?l?|\\left)?\s*(\\\{|[(\[])")
_OPERATOR = re.compile(r"[-+*/^(!]|\\[a-zA-Z]")
_LAYOUT = re.compile(r"\\[,!;:> $]|\\(?:left|right|displaystyle|q?quad)(?![a-zA-Z])|[\s${}~]")


def is_unit(text: str) -> bool:
    r"""Whether the content of a `\text{}` behind a number names what is counted, such as "cm", "miles per hour" or "a.m."."""
    return _UNIT.fullmatch(text.strip()) is not None and not _NOT_OF_UNITS.search(text)


def numbers_apart(text: str) -> bool:
    """Whether two numbers stand side by side, such as "5 7", and are neither digits in groups of three nor a mixed number."""
    spaced = re.sub(r"(?<=[0-9]) (?=[0-9]{3}(?![0-9]))", "", _SPACE.sub(" ", text))
    spaced = re.sub(r"(?<=[0-9]) +(?=[0-9]+/[0-9]+)", "", spaced)
    return bool(_APART.search(spaced) or _BRACED_APART.search(spaced))


def overlooked(gold: str, answer: str) -> bool:
    """Whether the answer says something, or says it in a way, that math-verify overlooks and the gold answer does not say."""
    said = {match.group().casefold() for match in _DROPPED.finditer(answer)}
    return (
        any(word not in gold.casefold() for word in said)
        or _another_base(gold, answer)
        or (numbers_apart(answer) and not numbers_apart(gold))
        or _another_kind(gold, answer)
        or _more_text(gold, answer)
    )


def _another_base(gold: str, answer: str) -> bool:
    """A number's base counts where the answer gives one; without one it is the gold answer's, and without any 10."""
    own, right = _BASE.search(answer), _BASE.search(gold)
    return own is not None and int(own.group(1)) != (int(right.group(1)) if right else 10)


def _another_kind(gold: str, answer: str) -> bool:
    """A set where a tuple or an interval belongs, or the other way round."""
    kinds = {match.group(1) == r"\{" for match in (_OPENING.match(gold), _OPENING.match(answer)) if match}
    return len(kinds) == 2


def _more_text(gold: str, answer: str) -> bool:
    known = {content.strip().casefold() for content in _TEXT.findall(gold)}
    texts = [content.strip().casefold() for content in _TEXT.findall(answer)]
    new = [text for text in texts if text not in known and text not in _JOINS]
    if not all(map(is_unit, new)):
        return True
    if known:
        return False
    marked = _TEXT.sub(lambda match: "," if match.group(1).strip().casefold() in _JOINS else "\0", _POWER.sub("", answer))
    return _NUMBER_TEXT_NUMBER.search(marked) is not None


def echoes(question: str, gold: str, answer: str) -> bool:
    """Whether the answer only repeats an expression that the question asks to evaluate, simplify or factor.

    It would be equal to the gold answer, and says nothing. Plain numbers and names are not meant.
    """
    said = _LAYOUT.sub("", answer).replace("dfrac", "frac").replace("tfrac", "frac")
    if "=" in said or not _OPERATOR.search(said.lstrip("+-")):
        return False
    asked, right = (_LAYOUT.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac") for text in (question, gold))
    return said in asked and said != right
