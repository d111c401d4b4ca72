r"""What answers state besides an expression: equalities, inequalities, lists and sets, each in `maths_forms.latex`'s form.

A model writes `x > 2` or `x = 5/15 = 1/3` where a solution has `(2,\infty)` or `1/3`.
"""

import re

from adaptive_jax.tasks.maths_forms import RELATION, VARIABLE, split

_MEMBER = re.compile(rf"^\s*{VARIABLE}\s*\\in(?![a-zA-Z])\s*(?:\\mathbb\{{R\}}\s*,)?")
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|\\(?:lor|vee|cup)(?![a-zA-Z])")
_AND = re.compile(
    r"\\text\s*\{\s*and\s*\}|(?<![a-zA-Z\\])and(?![a-zA-Z])|\\(?:land|wedge|cap)(?![a-zA-Z])|&|,(?![0-9]{3}(?![0-9]))"
)
_GAP = re.compile(r"\\[,!;: ]|\\q?quad(?![a-zA-Z])|[\s~$]")
_FROM_BELOW = re.compile(r"([\[(][^,]+),\\infty\)")
_FROM_ABOVE = re.compile(r"\(-\\infty,([^,]+[\])])")
_EITHER_SIGN = re.compile(r"\\pm(?![a-zA-Z])")
_FIRST_SIGN = re.compile(r"(^\s*|[=({,\[]\s*)\\pm(?![a-zA-Z])")
_LIST_JOIN = re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_LABEL = re.compile(
    rf"{VARIABLE}'*|{VARIABLE}(?:\^\{{-1\}})?\([^()]*\)|\|?[A-Z]{{2,4}}\|?|\[[A-Z]{{3,6}}\]|\\overline\{{[A-Z]{{2}}\}}"
    rf"|m?\\angle\s*[A-Z]{{1,3}}|[a-zA-Z]{{4,}}|\\text\{{[^{{}}]*\}}(?:_\{{?\w+\}}?)?"
)


def unchained(form: str, question: str, equation: bool) -> tuple[str, list[tuple[str, str]]]:
    """The answer with each chain of equalities cut to what it ends in, and the pairs that must be equal for that.

    `x = 5/15 = 1/3` is `x = 1/3` if 5/15 equals 1/3. The first member of a chain may be the name of what is sought, or an
    expression that stands in the question; every other member must equal the last.

    Args:
      form: an answer in `latex`'s form.
      question: the problem's question, in that form.
      equation: the gold answer is an equation, so that an answer with one equality sign may be one as well.
    """
    equations, pairs = [], []
    asked = _GAP.sub("", question)
    for element in split(_LIST_JOIN.sub(",", form), ","):
        *members, last = split(element, "=")
        if not members or not last.strip() or not all(member.strip() for member in members):
            equations.append(element)
            continue
        first = _GAP.sub("", members[0])
        named = first not in (r"\pi", "i") and _LABEL.fullmatch(first) is not None
        if equation and not named and len(members) == 1:
            equations.append(element)
            continue
        sought = named or (bool(re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", first))) and first in asked)
        pairs += [(last, member) for member in members[sought:]]
        equations.append(f"{members[0]}={last}" if named else last)
    return ",".join(equations), pairs


def interval(form: str) -> tuple[str, str] | None:
    r"""The variable of an inequality and its solutions as an interval, or a union or intersection of intervals.

    `x > 2` is ("x", "(2,\infty)"). None where the form is no inequality in one variable that stands alone on its side.
    """
    variables, unions = set(), []
    for alternative in _OR.split(form):
        sections = []
        for inequality in _AND.split(alternative):
            pieces = [_GAP.sub(" ", piece).strip() for piece in RELATION.split(inequality)]
            solved = _solved(pieces)
            if solved is None:
                return None
            variables.add(solved[0])
            sections.append(f"({solved[1]})" if r"\cup" in solved[1] else solved[1])
        unions.append(_bounded(sections) or r"\cap ".join(sections))
    return (variables.pop(), r"\cup ".join(unions)) if len(variables) == 1 else None


def _bounded(sections: list[str]) -> str | None:
    """The interval where both of two inequalities hold, if one bounds it from below and the other from above."""
    for above, below in (sections, sections[::-1]) if len(sections) == 2 else ():
        lower, upper = _FROM_BELOW.fullmatch(above), _FROM_ABOVE.fullmatch(below)
        if lower and upper:
            return f"{lower[1]},{upper[1]}"
    return None


_TURNED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le", r"\ne": r"\ne"}


def _solved(pieces: list[str]) -> tuple[str, str] | None:
    """The variable and the interval of `a < x < b`, `x < b`, `a < x` and their like, given as operands and relations."""
    turned = [_TURNED.get(piece, piece) for piece in reversed(pieces)]
    if not all(pieces) or len(pieces) not in (3, 5):
        return None
    if len(pieces) == 3 and (inner := re.fullmatch(rf"\|\s*({VARIABLE})\s*\|", pieces[0])) and pieces[1] in ("<", r"\le"):
        pieces = [f"-({pieces[2]})", pieces[1], inner[1], *pieces[1:]]  # |x| < 2
    if len(pieces) == 5:
        lower, low, variable, high, upper = turned if pieces[1] in (">", r"\ge") else pieces
        if not {low, high} <= {"<", r"\le"}:
            return None
    else:
        variable, relation, value = pieces if re.fullmatch(VARIABLE, pieces[0]) else turned
        lower, low, upper, high = r"-\infty", "<", r"\infty", "<"
        if relation in ("<", r"\le"):
            upper, high = value, relation
        elif relation in (">", r"\ge"):
            lower, low = value, _TURNED[relation]
        else:
            lower = upper = value
    # what remains of the bounds without commands must not name the variable: x > 2x is no solution
    bounds = re.sub(r"\\(?:infty|pi|frac|sqrt|cdot|times|l(?:og|n))(?![a-zA-Z])", "", lower + " " + upper)
    if not re.fullmatch(VARIABLE, variable) or variable in bounds:
        return None
    if lower == upper:
        return variable, rf"(-\infty,{lower})\cup ({lower},\infty)"
    opening = "[" if low == r"\le" and r"\infty" not in lower else "("
    closing = "]" if high == r"\le" and r"\infty" not in upper else ")"
    return variable, f"{opening}{lower},{upper}{closing}"


def in_order(gold: str, answer: str) -> list[tuple[str, str]] | None:
    """The elements of two lists pair by pair, if the gold answer names each of its own and the answer names none.

    `45, 2` is `k = 45, n = 2`, and `2, 45` is not. None for other answers.
    """
    named, plain = [split(element, "=") for element in split(gold, ",")], split(answer, ",")
    names = {sides[0].strip() for sides in named}
    if "=" in answer or not 1 < len(names) == len(plain) == len(named) or not all(len(sides) == 2 for sides in named):
        return None
    return [(sides[1], element) for sides, element in zip(named, plain, strict=True)]


def both_signs(form: str) -> str:
    r"""Each element of a list that has one \pm, or one on each side of an equation, as two: `1\pm x` as `1+x, 1-x`."""
    if r"\pm" not in form:
        return form
    braces = form.strip().startswith(r"\{") and form.strip().endswith(r"\}")
    elements = []
    for element in split(_LIST_JOIN.sub(",", form.strip()[2:-2] if braces else form), ","):
        if not _EITHER_SIGN.search(element) or any(len(_EITHER_SIGN.findall(side)) > 1 for side in split(element, "=")):
            elements.append(element)
        else:
            elements += [_EITHER_SIGN.sub("+", _FIRST_SIGN.sub(r"\1", element)), _EITHER_SIGN.sub("-", element)]
    return rf"\{{{','.join(elements)}\}}" if braces else ",".join(elements)


def member(form: str) -> str:
    r"""The set of `x \in S`; any other form as it is."""
    return _MEMBER.sub("", form, count=1)


def is_set(form: str) -> bool:
    """Whether the form could be an interval or a union of intervals."""
    return form.strip()[:1] in ("(", "[") or r"\cup" in form or r"\mathbb{R}" in form
