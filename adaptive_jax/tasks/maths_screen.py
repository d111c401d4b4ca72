r"""Answers that a computer algebra system would take for more, or for less, than they say.

math-verify is generous: it drops an ellipsis, whatever a last `\text{}` says, the base of a number, one side of `\approx`,
and it takes a set for an interval. Whoever is rewarded by it could list what comes to mind, or repeat the question.
Each rule here names something that decides what an answer says; an answer that has it where the gold answer does not is
wrong. That is strict on purpose: a right answer that is missed costs less than a wrong one that is rewarded.
"""

import re

from adaptive_jax.tasks.maths_forms import is_unit, latex, split

# what joins answers into a list; math-verify reads both as a comma
_JOINS = ("", ",", "and", "or")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_DROPPED = re.compile(r"\\[lcdv]?dots[a-z]?|\.\.|…|\\(?:approx|simeq)|answer", re.IGNORECASE)
_CLOSED_INFINITY = re.compile(r"\\infty\s*\]|\[\s*-\s*\\infty")
_BASE = re.compile(r"[0-9][A-F]*\s*_\s*\{?\s*([0-9]+)\s*\}?\s*$")
_SPACE = re.compile(r"\\[,:;> ]|\\q?quad(?![a-zA-Z])|[\s~]")
_APART = re.compile(r"[0-9]\.? +\.?[0-9]")
_BRACED_APART = re.compile(r"(?:^|[^\w}\]])\{[0-9.]+\}\s*\{[0-9.]+\}")
_POWER = re.compile(r"\^\s*\{?[0-9]\}?")
_NUMBER_TEXT_NUMBER = re.compile(r"[0-9][^0-9]*\0[^0-9]*[0-9]")
_OPENING = re.compile(r"\s*(?:\\[bB]igg?l?|\\left)?\s*(\\\{|[(\[])")
_OPERATOR = re.compile(r"[-+*/^(!]|\\[a-zA-Z]")
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)
# what a sentence asks to work out: behind the verb, up to a condition or the end of the sentence
_ASKED = re.compile(
    r"\b(?:evaluat|simplif|factor|comput|calculat|expand|rationali[sz]|reduc|express|writ|convert|find|determin|what is|what's|"
    r"work out|value of)(.*?)(?=(?:\b(?:if|where|given|when|such|with|for|whose)\b)|[.?!](?:\s|\Z)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_LAYOUT = re.compile(r"\\[,!;:> $]|\\(?:left|right|displaystyle|q?quad)(?![a-zA-Z])|[\s${}~]")


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
        or (bool(_CLOSED_INFINITY.search(answer)) and not _CLOSED_INFINITY.search(gold))
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
    if any(len([part for part in split(text, ",") if part.strip()]) > 1 for text in (gold, answer)):  # a list
        return False
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

    It would be equal to the gold answer, and says nothing. Plain numbers and names are not meant, nor what the question only
    mentions: a length that is given, the code of a drawing.
    """
    said, right = _plain(answer), _plain(gold)
    if "=" in said or not _OPERATOR.search(said.lstrip("+-")) or said == right:
        return False
    # no digit before or behind: 2+3 does not stand in 12+34
    whole = re.compile(rf"(?<![0-9]){re.escape(said)}(?![0-9])")
    return any(whole.search(_plain(match[1])) for match in _ASKED.finditer(_DRAWING.sub("", question)))


def _plain(text: str) -> str:
    """The text in one spelling, without layout and without parentheses around a single number or name."""
    return re.sub(r"\((\w+)\)", r"\1", _LAYOUT.sub("", latex(text)))
