r"""The forms in which one answer is written, brought to one LaTeX that math-verify reads.

Models write `2 sqrt(2)`, `x**2` or `28 percent` where a solution has `2\sqrt{2}`, `x^2` or `28\%`. Only notation is changed
here; whether two expressions are equal is for `maths` and math-verify, and `maths_statements` takes equalities and lists apart.
What has no translation stays as it is. Every function takes an answer of at most `maths.LONGEST_ANSWER` characters.
"""

# ruff: noqa: RUF001
import re
from functools import lru_cache

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",  # the minus sign; dashes follow
        "\u2013": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "⁄": "/",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∞": r"\infty ",
        "∅": r"\emptyset ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "ℝ": r"\mathbb{R}",
        "√": r"\root ",  # a root of what follows, as in plain text
        "π": r"\pi ",
        "θ": r"\theta ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "²": "^{2}",
        "³": "^{3}",
        "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
    }
)
_GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "sigma", "omega", "phi", "psi")
_FUNCTIONS = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "log",
    "ln",
    "exp",
)
_TEXT_COMMAND = r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{[^{}]*\}"
_PLAIN_WORD = re.compile(rf"({_TEXT_COMMAND})|(\\[a-zA-Z]+)|([a-zA-Z]+)")
_PERCENT_WORD = re.compile(
    r"(?:\\[,;: ]|[\s~])*(?:\\(?:text|mathrm|mbox)\s*\{\s*(?:per\s?cent(?:age)?|pct)\.?\s*\}"
    r"|(?<![a-zA-Z\\{])(?:per\s?cent(?:age)?|pct)(?![a-zA-Z]))(?!\s*[a-zA-Z])",
    re.IGNORECASE,
)
_NAMED_SETS = (
    (
        re.compile(r"\\(?:varnothing|emptyset|O)(?![a-zA-Z])|\\\{\s*\\\}|^\s*\{\s*\}\s*$|^\s*empty\s?set\s*$", re.I),
        r"\\emptyset ",
    ),
    (re.compile(r"\\(?:mathbb|mathbf|Bbb)\s*\{?\s*R\s*\}?|\\R(?![a-zA-Z])"), r"\\mathbb{R}"),
    (re.compile(r"^\s*(?:\\text\s*\{)?\s*all real(?: number)?s\s*\}?\s*$", re.I), r"\\mathbb{R}"),
)
_SPELLINGS = (
    (re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\leq(?:slant|q)?(?![a-zA-Z])|<="), r"\\le "),
    (re.compile(r"\\geq(?:slant|q)?(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\neq(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\+/-"), r"\\pm "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
)
_ROOT_WORD = re.compile(r"(?<!\\)(sqrt|cbrt)")
_PI_WORD = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z]?)pi(?![a-zA-Z])")
_PLAIN_FRACTION = re.compile(r"(?<![\w.,)}\]^/])([0-9]+)/([0-9]+)(?![\w.,(^])")

_HAS_ARGUMENTS = re.compile(r"\\(?:(frac|binom)|(sqrt|root|cbrt))(?![a-zA-Z])|(\^)|(_)")
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_ABSOLUTE = re.compile(r"(?<![a-zA-Z\\])abs\(")
_DIGITS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WRITTEN_ROOT = re.compile(r"[0-9]+(?:\.[0-9]+)?|\\?[a-zA-Z]+")
_PAIRS = {"(": ")", "[": "]", "{": "}"}

_OVERLINED = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar|overbar)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))(?![0-9])")
_DOTTED = re.compile(r"([0-9]*)\.([0-9]*)\\dot\s*\{?\s*([0-9])\s*\}?(?:([0-9]*)\\dot\s*\{?\s*([0-9])\s*\}?)?(?![0-9])")
_BRACKETED = re.compile(r"(?<![\w)}])([0-9]+)\.([0-9]*)\(([0-9]+)\)(?![\w(^])")
_DECIMAL = re.compile(r"(?<![\w.])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)\.([0-9]+)(?![0-9.])(\s*\^)?")

VARIABLE = r"(?:[a-zA-Z]|\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|sigma|omega|phi|psi|rho))(?:_\{?\w\}?)?"
RELATION = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z]))")
_BUILDER = re.compile(
    rf"^\s*\\\{{\s*({VARIABLE})\s*(?:\\in\s*\\mathbb\{{R\}}\s*)?(?::|\||\\mid(?![a-zA-Z]))(.*)\\\}}\s*$", re.DOTALL
)
# a text that holds one of these is no unit, and changes or takes back the number before it
_NOT_OF_UNITS = re.compile(
    r"(?<![a-z])(?:or|and|not?|but|to|is|are|isn|if|than|except|half|dozen|hundred|thousand|[mbtr]+illion)(?![a-z])", re.I
)
_UNIT_NAME = re.compile(r"[A-Za-z°][A-Za-z°./ -]*")
_TEXT_UNIT = re.compile(
    r"(?<=[\w)}\]])(?:\\[,;: ]|[\s~])*\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}(?:\s*\^\s*\{?[23]\}?)?"
    r"(?=\s*(?:$|[,.;$)=]|\\text|\\\)))"
)
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"([\w)}])\s*(?:\^\{\\circ\}|°|\\text\{ ?degrees?\}|degrees?)")
_LETTER_D = re.compile(rf"({_TEXT_COMMAND}|\\[a-zA-Z]+)|(?<!an)d(?=\s*[a-zA-Z\\])")
_IMAGINARY = re.compile(r"(?<=[0-9])i(?![a-zA-Z])")


def is_unit(text: str) -> bool:
    r"""Whether the content of a `\text{}` behind a number names what is counted, such as "cm", "miles per hour" or "a.m."."""
    return _UNIT_NAME.fullmatch(text.strip()) is not None and not _NOT_OF_UNITS.search(text)


@lru_cache(maxsize=4096)
def latex(text: str) -> str:
    r"""The answer in one spelling of LaTeX; of two answers that differ in notation alone, both have the same or equal ones.

    Arguments are in braces (`\frac \pi4` is `\frac{\pi}{4}`, `x^10` is `x^{10}`), functions and constants of plain text and
    Unicode are commands, a repeating decimal is a fraction, `percent` is `\%`, and there is one word for each of <=, >=, the
    empty set and the real numbers. Set-builder notation for an inequality is the inequality.
    """
    text = text.translate(_SYMBOLS)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _PERCENT_WORD.sub(r"\\%", text)
    for pattern, spelling in _NAMED_SETS:
        text = pattern.sub(spelling, text)
    text = _PLAIN_WORD.sub(_command, text)
    for pattern in (_OVERLINED, _DOTTED, _BRACKETED):
        text = pattern.sub(_repeating, text)
    text = _braced(text)
    text = _PLAIN_FRACTION.sub(r"\\frac{\1}{\2}", _divided(_absolute(text)))
    builder = _BUILDER.match(text)
    if builder and RELATION.search(builder[2]):
        text = builder[2]
    return text


def _command(match: re.Match[str]) -> str:
    """The command for a word of plain text: `sqrt`, `pi`, `sin` before its argument, and the like."""
    word = match[3]
    if word is None:
        return match[0]
    behind = match.string[match.end() :].lstrip()
    if word in ("frac", "dfrac", "tfrac") and behind[:1] == "{":
        return r"\frac"
    if word in _GREEK or (word in _FUNCTIONS and (behind[:1] in tuple("(^_\\") or behind[:1].isalnum())):
        return rf"\{word} "
    if word.casefold() in ("infinity", "inf", "oo"):
        return r"\infty "
    return _PI_WORD.sub(r"\1\\pi ", _ROOT_WORD.sub(lambda root: {"sqrt": r"\root ", "cbrt": r"\cbrt "}[root[1]], word))


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: whole.head(tail) is (whole head tail - whole head) / (10^|head| (10^|tail| - 1))."""
    whole, head = match[1] or "0", match[2]
    if match.re is _OVERLINED:
        tail = match[3] or match[4]
    elif match.re is _DOTTED:
        tail = match[3] + (match[4] or "") + (match[5] or "")
        if match[4] and not match[5]:
            return match[0]
    else:
        tail = match[3]
    above = int(whole + head + tail) - int(whole + head)
    return rf"\frac{{{above}}}{{{10 ** len(head) * (10 ** len(tail) - 1)}}}"


def closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes."""
    opening, closing, depth, index = text[start], _PAIRS[text[start]], 0, start
    while index < len(text):
        if text[index] == "\\":
            index += 2
            continue
        depth += (text[index] == opening) - (text[index] == closing)
        if depth == 0:
            return index
        index += 1
    return None


def _braced(text: str) -> str:
    """Puts the arguments of fractions, roots, powers and indices in braces; from the right, so that inner ones come first."""
    for match in reversed(list(_HAS_ARGUMENTS.finditer(text))):
        fraction, root, power, _ = match.groups()
        head, end, arguments = match[0], match.end(), []
        if root:
            head = r"\sqrt[3]" if root == "cbrt" else r"\sqrt"
            if root == "sqrt" and text[end : end + 1] == "[" and (close := closing(text, end)):
                head, end = head + text[end : close + 1], close + 1
        for _ in range(2 if fraction else 1):
            argument = _argument(text, end, plain=root in ("root", "cbrt"), brackets=bool(root or power), digits=bool(power))
            if argument is None:
                break
            arguments.append(argument[0])
            end = argument[1]
        else:
            text = text[: match.start()] + head + "".join(f"{{{argument}}}" for argument in arguments) + text[end:]
    return text


def _argument(text: str, start: int, plain: bool, brackets: bool, digits: bool) -> tuple[str, int] | None:
    """The argument at `start` and its end: a group, a command with its own arguments, or one character, as TeX reads it.

    plain: all of a number or a name, as plain text means it. brackets: also what stands in parentheses. digits: also all of
    a number with its sign.
    """
    while start < len(text) and text[start] in " \t\n":
        start += 1
    if start == len(text):
        return None
    if text[start] == "{" or (brackets and text[start] == "("):
        close = closing(text, start)
        return None if close is None else (text[start + 1 : close], close + 1)
    if command := _COMMAND.match(text, start):
        end = command.end()
        while text[end : end + 1] in ("{", "[") and command[0] in (r"\sqrt", r"\frac", r"\binom", r"\text", r"\mathrm"):
            close = closing(text, end)
            if close is None:
                return None
            end = close + 1
        return text[start:end].strip(), end
    if plain and (written := _WRITTEN_ROOT.match(text, start)):
        return written[0], written.end()
    if digits:
        sign = text[start] if text[start] in "+-" else ""
        if number := _DIGITS.match(text, start + len(sign)):
            return sign + number[0], number.end()
        if sign and (rest := _argument(text, start + 1, plain, brackets, digits)):
            return sign + rest[0], rest[1]
    return (text[start], start + 1) if text[start].isalnum() or text[start] in "'" else None


def _absolute(text: str) -> str:
    """`abs(x-1)` as `|x-1|`, from the right, so that inner ones come first."""
    for match in reversed(list(_ABSOLUTE.finditer(text))):
        if close := closing(text, match.end() - 1):
            text = f"{text[: match.start()]}|{text[match.end() : close]}|{text[close + 1 :]}"
    return text


def _divided(text: str) -> str:
    r"""A quotient of something in parentheses, such as `(1+\sqrt{5})/2`, as a fraction: what stands in one may have a \pm."""
    for slash in reversed([match.start() for match in re.finditer("/", text)]):
        before, after = text[:slash].rstrip(), text[slash + 1 :].lstrip()
        start = _opening(before) if before.endswith(")") else None
        if start is None or not (start == 0 or before[:start].rstrip()[-1:] in ("", *"+-=,({[")):
            continue
        if after.startswith("("):
            close = closing(after, 0)
            below, rest = (after[1:close], after[close + 1 :]) if close else ("", "")
        else:
            number = _DIGITS.match(after)
            below, rest = (number[0], after[number.end() :]) if number else ("", "")
        if below and not re.match(r"[\w.^!(]", rest):
            text = rf"{before[:start]}\frac{{{before[start + 1 : -1]}}}{{{below}}}{rest}"
    return text


def _opening(text: str) -> int | None:
    """Where the parenthesis opens that closes at the end of a text."""
    depth = 0
    for index in range(len(text) - 1, -1, -1):
        depth += (text[index] == ")") - (text[index] == "(")
        if depth == 0:
            return index
    return None


def reading(form: str) -> str:
    r"""What math-verify is given of an answer in `latex`'s form: without units in `\text{}`, and with decimals as fractions.

    It compares a decimal with anything to six places only, so that 0.3333333 would be 1/3; a fraction is exact.
    """
    form = _TEXT_UNIT.sub(lambda match: "" if is_unit(match[1]) else match[0], form)
    if _ANGLE_FUNCTION.search(form):  # math-verify drops the degree sign
        form = _DEGREES.sub(r"\1\\frac{\\pi}{180}", form)
    form = _IMAGINARY.sub(" i", form)  # else it is taken for a variable
    if r"\int" not in form and r"\frac{d" not in form:  # else, what is meant is a differential, as math-verify takes it
        form = _LETTER_D.sub(lambda match: match[1] or "{d}", form)
    return _DECIMAL.sub(_exact, form)


def _exact(match: re.Match[str]) -> str:
    whole, behind = match[1].replace(",", ""), match[2]
    fraction = rf"\frac{{{int(whole + behind)}}}{{{10 ** len(behind)}}}"
    return rf"({fraction})^" if match[3] else fraction


def split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators (one character) that stand in no bracket."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(text):
        if text[index] == "\\":
            depth += {"{": 1, "}": -1}.get(text[index + 1 : index + 2], 0)
            index += 2
            continue
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if text[index] == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
        index += 1
    return [*parts, text[start:]]
