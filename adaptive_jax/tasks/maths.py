r"""Finding and comparing mathematical answers in process: what can be decided without a computer algebra system.

The answer is the last `\boxed{}` after any think block, or several with nothing between them. Two answers are first brought
to one notation (`maths_forms`), then compared as numbers where both are plain numbers and as strings otherwise; what
`maths_screen` knows to be a dodge is wrong; where that does not decide, `quick_verdict` says so and `maths_pool` takes over.
A decimal is what it says: 0.333 is not 1/3, however many digits it has, and 0.\overline{3} is. Completions are searched in
linear time, answers are capped in length, and no text is ever evaluated as code.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from adaptive_jax.tasks.maths_forms import is_unit, latex, reading
from adaptive_jax.tasks.maths_screen import numbers_apart, overlooked
from adaptive_jax.tasks.maths_statements import both_signs, in_order, interval, is_set, member, unchained
from adaptive_jax.tasks.problem import Verdict

LONGEST_ANSWER = 1000  # characters; anything longer is no answer but noise, and costs a parser dearly

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:[\s.,;:&$*~]|\\[,;: \\()\[\]]|\\q?quad(?![a-zA-Z])|\\(?:text|mbox)\s*\{\s*(?:and|or)?\s*\}|(?<!\w)(?:and|or)(?!\w))*+"
)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")

_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,60}|[0-9]{1,3}(?:,[0-9]{3}){1,20})")
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,60}|[0-9]{1,3}(?:,[0-9]{3}){1,20})(?:\.[0-9]{0,60})?|\.[0-9]{1,60})")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]{1,60}(?:\.[0-9]{1,60})?[eE][+-]?[0-9]{1,2}")
_FRACTION = re.compile(r"([+-]?)\\frac\{(-?[0-9]{1,60})\}\{([0-9]{1,60})\}")
_MIXED = re.compile(r"([+-]?)([0-9]{1,60})(\\frac.*)")

_IGNORED = re.compile(r"\\[,!;:> ]|(?<!\\)\$|[\s~]")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?P<value>.*[0-9})])(?:\\[,;: ]|[\s~])*\\(?:text|textrm|mathrm|mbox)\{(?P<unit>[^{}]*)\}"
    r"(?:\^\{?(?P<power>[23])\}?)?[\s.$]*",
    re.DOTALL,
)
# units outside of a text wrapper: short ones that are known, or words that no product of variables looks like
_SHORT_UNIT = r"(?:[mcdk]m|mi|ft|yds?|in|[mk]ph|[mk]g|lbs?|oz|secs?|mins?|hrs?|m[lL]|deg|usd|USD|days?)"
_BARE_UNIT = re.compile(
    rf"(?:(?P<value>[+-]?[^+-]*[0-9}})])(?:\\[,;: ]|[\s~])+(?P<unit>(?:(?:sq|cu|square|cubic)\.?\s+)?"
    rf"(?:{_SHORT_UNIT}|[a-zA-Z]{{4,}})(?:\s+[a-zA-Z]{{2,}})*)"
    rf"|(?P<sum>.*[0-9}})])(?:\\[,;: ]|[\s~])+(?P<words>[a-zA-Z]{{4,}}(?:\s+[a-zA-Z]{{2,}})*)"
    rf"|(?P<number>[+-]?[0-9.,]+)(?P<close>{_SHORT_UNIT}|units?|degrees?|dollars?))(?:\^\{{(?P<power>[23])\}})?[\s.]*",
    re.DOTALL,
)
_LETTERS_BEHIND = re.compile(r"(?P<value>.*[0-9])(?P<unit>[a-zA-Z]+)(?:\^\{(?P<power>[23])\})?")
_SPACED_LETTER = re.compile(r"(?P<value>.*[0-9])(?:\\[,;: ]|[\s~])+[mgshLl][\s.]*", re.DOTALL)
_TAIL = re.compile(r"(?:\.|\\?%|\^\{\\circ\}|°)+$")
_WORD = re.compile(r"[^\W\d_]{3,}")  # more letters than a product of variables tends to have
_NOT_UNITS = ("i", "e")
_SAME_UNITS = {"dollar": "$", "usd": "$", "degree": "°", "deg": "°", "percent": "%"}
_SAME_UNITS |= {
    "inche": "in",
    "inch": "in",
    "feet": "ft",
    "foot": "ft",
    "yard": "yd",
    "mile": "mi",
    "pound": "lb",
    "ounce": "oz",
}
_SAME_UNITS |= {"second": "sec", "minute": "min", "hour": "hr", "h": "hr", "milesperhour": "mph", "milleliter": "ml"}
_SAME_UNITS |= {
    prefix + name: short + symbol
    for prefix, short in {"": "", "milli": "m", "centi": "c", "deci": "d", "kilo": "k"}.items()
    for name, symbol in {"meter": "m", "metre": "m", "gram": "g", "liter": "l", "litre": "l"}.items()
}
_SQUARE = re.compile(r"(?:(sq|square)|(?:cu|cubic))\b\.?")


def final_answer(text: str, hash_answer: bool = False) -> str | None:
    r"""The answer a completion commits itself to, or None.

    Args:
      text: the completion; what stands in a think block does not count.
      hash_answer: where there is no box, take the last `#### n` instead.

    Returns:
      The content of the last `\boxed{}`; None if there is none, it is empty, never closed, or too long.
    """
    text = without_thoughts(text)
    if _BOX.search(text):
        answer = last_box(text)
    else:
        hashes = _HASHES.findall(text) if hash_answer else []
        answer = hashes[-1] if hashes else None
    return answer if answer and answer.strip() and len(answer) <= LONGEST_ANSWER else None


def without_thoughts(text: str) -> str:
    """What stands behind the last `</think>`, and before a `<think>` that is never closed."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def last_box(text: str) -> str | None:
    r"""The content of the `\boxed{` that opens last, up to the brace that closes it; None if there is none, or no end.

    Of nested boxes that is the innermost. A box cut off by the token budget does not give way to an earlier one. Boxes with
    nothing but punctuation, "and" or "or" between them are one answer, a list: `\boxed{2} and \boxed{3}` is "2, 3".
    """
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    end = _end_of_box(text, openings[-1].end(), len(text))
    if end is None:
        return None
    contents = [text[openings[-1].end() : end]]
    for opening, following in zip(reversed(openings[:-1]), reversed(openings), strict=False):
        end = _end_of_box(text, opening.end(), following.start())
        if end is None or not _BETWEEN_BOXES.fullmatch(text, end + 1, following.start()):
            break
        contents.append(text[opening.end() : end])
    return ", ".join(dict.fromkeys(reversed(contents)))


def _end_of_box(text: str, start: int, stop: int) -> int | None:
    """Where the brace closes that opens just before `start`; None if it does not before `stop`."""
    depth = 1
    for brace in _BRACE.finditer(text, start, stop):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def integer_verdict(gold: str, answer: str) -> Verdict:
    """Compares plain integers, thousands separated by commas or not; several of them are wrong, all else is unparseable.

    Raises:
      ValueError: the gold answer is no integer.
    """
    if not _INTEGER.fullmatch(gold):
        raise ValueError(f"gold answer {gold!r} is no plain integer; make the problem's kind 'math'")
    if not _INTEGER.fullmatch(answer.strip()):
        several = all(_INTEGER.fullmatch(part) for part in answer.split(", "))  # of boxes side by side
        return "wrong" if several else "unparseable"
    return "correct" if _integer(answer.strip()) == _integer(gold) else "wrong"


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


def quick_verdict(gold: str, answer: str) -> Verdict | None:
    """The verdict where plain numbers, normalised strings or a dodge decide, else None.

    Plain numbers (integers, decimals, simple fractions, mixed and scientific numbers) are compared exactly; 50% is 50 as
    well as 1/2. A unit, currency, degree or percent sign counts where both answers have one. A gold answer in words is
    matched in any letter case.
    """
    left, right = _canonical(gold), _canonical(answer)
    if not right.unit and left.value != right.value:
        letters = _LETTERS_BEHIND.fullmatch(right.value) if left.unit else None
        spaced = _SPACED_LETTER.fullmatch(right.form) if left.number is not None and not left.unit else None
        if letters:
            power = f"^{letters['power']}" if letters["power"] else ""
            right = _canonical(rf"{letters['value']}\text{{{letters['unit']}}}{power}")
        elif spaced:
            right = _canonical(spaced["value"])
    if left.unit and right.unit and left.unit != right.unit:
        return "wrong"
    if left.number is not None and right.number is not None:
        equal = left.number == right.number
        if (left.unit == "%") != (right.unit == "%"):
            equal |= left.number == right.number / 100 if right.unit == "%" else left.number / 100 == right.number
        return "correct" if equal else "wrong"
    if left.value == right.value and not numbers_apart(answer):
        return "correct"
    if left.words or _WORD.fullmatch(left.value):
        if _folded(left.value) == _folded(right.value):
            return "correct"
        if left.words:
            return "wrong"
    return "wrong" if overlooked(latex(gold), latex(answer)) else None


def comparisons(question: str, gold: str, answer: str) -> list[tuple[str, str]]:
    r"""The pairs of LaTeX expressions, gold first, that must all be equal for the answer to be right.

    The first is the answer itself, or where only the order of a list tells what is what, each of its elements is one
    (`maths_statements.in_order`); the others are the members of its chains of equalities (`maths_statements.unchained`). An
    inequality and an interval, such as `x > 2` and `(2,\infty)`, are compared as intervals. All numbers are exact: 0.333 is
    not 1/3, and 1.414214 not the root of 2.
    """
    left, right = (both_signs(member(_canonical(text).form)) for text in (gold, answer))
    left_interval, right_interval = interval(left), interval(right)
    pairs: list[tuple[str, str]] = []
    if left_interval and right_interval:
        if left_interval[0] == right_interval[0]:
            left, right = left_interval[1], right_interval[1]
    elif right_interval and is_set(left):
        right = right_interval[1]
    elif left_interval and is_set(right):
        left = left_interval[1]
    else:
        right, pairs = unchained(right, latex(question), equation="=" in left)
    wholes = in_order(left, right) or [(left, right)]
    return [(reading(first), reading(second)) for first, second in wholes + pairs]


@dataclass(frozen=True)
class _Canonical:
    value: str  # without white space, sizing commands, unit and text wrappers
    unit: str  # "$", "°", "%", or in lower case and without a plural's s; "" if there is none
    words: bool  # the whole answer was a text wrapper
    number: Fraction | None  # its exact value, if it is a plain number
    form: str  # LaTeX without the unit


@lru_cache(maxsize=4096)
def _canonical(answer: str) -> _Canonical:
    text, unit = latex(answer), ""
    measured = _UNIT.fullmatch(text)
    bare = None if measured else _BARE_UNIT.fullmatch(text)
    if measured and measured["unit"] not in _NOT_UNITS and is_unit(measured["unit"]):
        text, unit = measured["value"], _unit(measured["unit"]) + (measured["power"] or "")
    elif bare and is_unit(name := bare["unit"] or bare["words"] or bare["close"]):
        text, unit = bare["value"] or bare["sum"] or bare["number"], _unit(name) + (bare["power"] or "")
    form = text
    apart = numbers_apart(text)
    text = _IGNORED.sub("", text)
    if r"\$" in text:
        text, unit = text.replace(r"\$", ""), "$"
    tail = _TAIL.search(text)
    if tail and (sign := tail.group().strip(r".\^{}")):
        unit = "%" if "%" in sign else "°"
    text = _TAIL.sub("", text)
    words = _TEXT.fullmatch(text) is not None
    text = _TAIL.sub("", _TEXT.sub(r"\1", text))
    return _Canonical(text, unit, words, None if apart else _number(text), form)


def _unit(text: str) -> str:
    text, square = text.casefold().strip(" ."), ""
    if powered := _SQUARE.match(text):
        text, square = text[powered.end() :], "2" if powered[1] else "3"
    name = "".join(text.split()).removesuffix("s")
    return _SAME_UNITS.get(name, name) + square


def _number(text: str) -> Fraction | None:
    if _NUMBER.fullmatch(text) or _SCIENTIFIC.fullmatch(text):
        return Fraction(text.replace(",", ""))
    mixed = _MIXED.fullmatch(text)
    if mixed:
        rest = _number(mixed[3])
        if rest is None or not 0 < rest < 1:
            return None
        whole = int(mixed[2])
        return -whole - rest if mixed[1] == "-" else whole + rest
    ratio = _FRACTION.fullmatch(text)
    if ratio is None:
        return None
    sign, above, below = ratio[1], int(ratio[2]), int(ratio[3])
    if below == 0:
        return None
    return Fraction(-above if sign == "-" else above, below)


def _folded(text: str) -> str:
    return text.casefold().strip("().")
