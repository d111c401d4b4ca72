r"""Finding and comparing mathematical answers in process: what can be decided without a computer algebra system.

The answer is the last `\boxed{}` after any think block. Two answers are compared as numbers where both are plain
numbers and as normalised strings otherwise; what `maths_screen` knows to be a dodge is wrong; where that does not decide,
`quick_verdict` says so and `maths_pool` takes over. Completions are searched in linear time, answers are capped in length,
and no text is ever evaluated as code.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from adaptive_jax.tasks.maths_screen import is_unit, numbers_apart, overlooked
from adaptive_jax.tasks.problem import Verdict

LONGEST_ANSWER = 1000  # characters; anything longer is no answer but noise, and costs a parser dearly

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")

_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,60}|[0-9]{1,3}(?:,[0-9]{3}){1,20})")
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,60}|[0-9]{1,3}(?:,[0-9]{3}){1,20})(?:\.[0-9]{0,60})?|\.[0-9]{1,60})")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]{1,60}(?:\.[0-9]{1,60})?[eE][+-]?[0-9]{1,2}")
_FRACTION = re.compile(
    r"([+-]?)(?:\\frac(?:\{(-?[0-9]{1,60})\}|([0-9]))(?:\{([0-9]{1,60})\}|([0-9]))|([0-9]{1,60})/([0-9]{1,60}))"
)
_MIXED = re.compile(r"([+-]?)([0-9]{1,60})(?:(\\frac.*)|\0([0-9]+/[0-9]+))")

_MIXED_SPACE = re.compile(r"(?<=[0-9])(?:\\[,;: ]|[\s~])+(?=[0-9]+/[0-9]+)")
_IGNORED = re.compile(r"\\[,!;:> ]|\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\$|[\s~]")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?P<value>.*[0-9})])(?:\\[,;: ]|[\s~])*\\(?:text|textrm|mathrm|mbox)\{(?P<unit>[^{}]*)\}"
    r"(?:\^\{?(?P<power>[23])\}?)?[\s.$]*",
    re.DOTALL,
)
_BARE_UNIT = re.compile(r"(?P<value>.*[0-9])(?P<unit>[a-zA-Z]+)")
_TAIL = re.compile(r"(?:\.|\\?%|\^\\circ|\^\{\\circ\}|°)+$")
_WORD = re.compile(r"[^\W\d_]{3,}")  # more letters than a product of variables tends to have
_NOT_UNITS = ("i", "e")
_SAME_UNITS = {"dollar": "$", "usd": "$", "degree": "°", "deg": "°", "percent": "%"}


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

    Of nested boxes that is the innermost. A box cut off by the token budget does not give way to an earlier one.
    """
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    start, depth = openings[-1].end(), 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()]
    return None


def integer_verdict(gold: str, answer: str) -> Verdict:
    """Compares plain integers, thousands separated by commas or not; any other answer is unparseable.

    Raises:
      ValueError: the gold answer is no integer.
    """
    if not _INTEGER.fullmatch(gold):
        raise ValueError(f"gold answer {gold!r} is no plain integer; make the problem's kind 'math'")
    if not _INTEGER.fullmatch(answer.strip()):
        return "unparseable"
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
    bare = _BARE_UNIT.fullmatch(right.value)
    if left.unit and not right.unit and bare and left.value != right.value:
        right = _Canonical(bare["value"], _unit(bare["unit"]), False, _number(bare["value"]))
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
    return "wrong" if overlooked(gold, answer) else None


@dataclass(frozen=True)
class _Canonical:
    value: str  # without white space, sizing commands, unit and text wrappers
    unit: str  # "$", "°", "%", or in lower case and without a plural's s; "" if there is none
    words: bool  # the whole answer was a text wrapper
    number: Fraction | None  # its exact value, if it is a plain number


@lru_cache(maxsize=4096)
def _canonical(answer: str) -> _Canonical:
    text, unit = answer.replace("\u2212", "-").replace("{,}", ","), ""
    measured = _UNIT.fullmatch(text)
    if measured and measured["unit"] not in _NOT_UNITS and is_unit(measured["unit"]):
        text, unit = measured["value"], _unit(measured["unit"]) + (measured["power"] or "")
    text = _MIXED_SPACE.sub("\0", text)  # the mark of a mixed number
    apart = numbers_apart(text)
    text = _IGNORED.sub("", text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    if r"\$" in text:
        text, unit = text.replace(r"\$", ""), "$"
    tail = _TAIL.search(text)
    if tail and (sign := tail.group().strip(r".\^{}")):
        unit = "%" if "%" in sign else "°"
    text = _TAIL.sub("", text)
    words = _TEXT.fullmatch(text) is not None
    text = _TAIL.sub("", _TEXT.sub(r"\1", text))
    return _Canonical(text, unit, words, None if apart else _number(text))


def _unit(text: str) -> str:
    name = "".join(text.casefold().split()).strip(".").removesuffix("s")
    return _SAME_UNITS.get(name, name)


def _number(text: str) -> Fraction | None:
    if _NUMBER.fullmatch(text) or _SCIENTIFIC.fullmatch(text):
        return Fraction(text.replace(",", ""))
    mixed = _MIXED.fullmatch(text)
    if mixed:
        rest = _number(mixed[3] or mixed[4])
        if rest is None or not 0 < rest < 1:
            return None
        whole = int(mixed[2])
        return -whole - rest if mixed[1] == "-" else whole + rest
    ratio = _FRACTION.fullmatch(text)
    if ratio is None:
        return None
    sign, above, below = ratio.group(1), *(int(part) for part in ratio.groups()[1:] if part)
    if below == 0:
        return None
    return Fraction(-above if sign == "-" else above, below)


def _folded(text: str) -> str:
    return text.casefold().strip("().")
