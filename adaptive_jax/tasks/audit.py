r"""An audit of the grader on a data set: does it know the right answers, and only those?

Each reference answer is graded as it is, with one number changed, and rewritten without a change of meaning. Whatever the
grader gets wrong is listed, so that a person can see whether the grader or the data set is at fault.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adaptive_jax.tasks.grading import grade_many
from adaptive_jax.tasks.maths_forms import closing, latex, split
from adaptive_jax.tasks.problem import Problem, Verdict

REFERENCE, CHANGED = "reference answers", "one number changed"

_NOT_A_SUM = re.compile(r"[=<>,%&°:|\\]|[a-zA-Z]{4}")
_IN_SUMS = re.compile(r"\\(?:frac|sqrt|pi|cdot)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\(frac|sqrt|pi)(?![a-zA-Z])\s*")
_FACTORS = re.compile(r"(-?\w*)((?:\([^(),]+\)){2,})")
_GROUP = re.compile(r"\([^(),]+\)")


@dataclass
class Tally:
    """How the grader did on one kind of answers.

    Attributes:
      graded: how many there were.
      accepted: how many of them it called correct.
      exceptions: (problem id, reference answer, answer, verdict) of each that it got wrong.
    """

    graded: int = 0
    accepted: int = 0
    exceptions: list[tuple[str, str, str, Verdict]] = field(default_factory=list)


def audit(problems: Sequence[Problem]) -> dict[str, Tally]:
    """The tally of each kind of answers: `REFERENCE`, `CHANGED` and the keys of `REWRITINGS`.

    Args:
      problems: those of kinds "math" and "integer" are audited, the others have no answer in mathematics.
    """
    cases: list[tuple[str, Problem, str]] = []
    for problem in problems:
        if problem.kind not in ("math", "integer"):
            continue
        answer = problem.answer
        cases.append((REFERENCE, problem, answer))
        cases += [(CHANGED, problem, changed) for changed in one_number_changed(answer)]
        cases += [(name, problem, text) for name, rewrite in REWRITINGS.items() if (text := rewrite(answer)) != answer]
    verdicts = grade_many([problem for _, problem, _ in cases], [rf"\boxed{{{answer}}}" for *_, answer in cases])
    tallies = {name: Tally() for name in (REFERENCE, CHANGED, *REWRITINGS)}
    for (name, problem, answer), verdict in zip(cases, verdicts, strict=True):
        tally, accepted = tallies[name], verdict == "correct"
        tally.graded += 1
        tally.accepted += accepted
        if accepted == (name == CHANGED):
            tally.exceptions.append((problem.id, problem.answer, answer, verdict))
    return tallies


def report(tallies: dict[str, Tally], name: str, left_out: int) -> str:
    """The tallies as a table with rates in percent, and below it every exception.

    Args:
      tallies: of `audit`.
      name: of the data set.
      left_out: how many of its problems have no answer in mathematics.
    """
    lines = [f"{name}: {tallies[REFERENCE].graded} problems audited, {left_out} left out (no answer in mathematics)", ""]
    lines.append(f"{'answers':<24}{'graded':>8}{'accepted':>10}{'rate':>10}   should be")
    for kind, tally in tallies.items():
        rate = f"{100 * tally.accepted / tally.graded:.2f}%" if tally.graded else "-"
        lines.append(f"{kind:<24}{tally.graded:>8}{tally.accepted:>10}{rate:>10}   {'0%' if kind == CHANGED else '100%'}")
    exceptions = [(kind, exception) for kind, tally in tallies.items() for exception in tally.exceptions]
    lines += ["", f"{len(exceptions)} exceptions"]
    for kind, (identity, gold, answer, verdict) in exceptions:
        lines.append(f"  {kind}: problem {identity}: {answer!r} for {gold!r} is called {verdict}")
    return "\n".join(lines) + "\n"


def one_number_changed(answer: str) -> list[str]:
    """The answer with one of its whole numbers, each in turn, greater by one; decimals and digits in groups count as one."""
    changed = []
    for match in re.finditer(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?", answer):
        last = match.end() - 1
        digit = str((int(answer[last]) + 1) % 10)
        changed.append(answer[:last] + digit + answer[last + 1 :])
    return changed


def reordered_sum(answer: str) -> str:
    """The terms of a sum in the opposite order: `x^2-3x+2` as `2-3x+x^2`; any other answer as it is."""
    plain = latex(answer)
    if _NOT_A_SUM.search(_IN_SUMS.sub("", plain)):
        return answer
    terms = [term.strip() for sign in split(plain, "+") for term in _signed(sign)]
    if len(terms) < 2 or not all(term.strip("-") for term in terms):
        return answer
    return "+".join(reversed(terms)).replace("+-", "-")


def _signed(text: str) -> list[str]:
    """The terms of a difference, each with its sign."""
    first, *others = split(text, "-")
    return ([first] if first.strip() else []) + [f"-{term.strip()}" for term in others]


def reordered_factors(answer: str) -> str:
    """The factors in parentheses in the opposite order: `2(x-1)(x+3)` as `2(x+3)(x-1)`; any other answer as it is."""
    match = _FACTORS.fullmatch(answer.strip())
    return match[1] + "".join(reversed(_GROUP.findall(match[2]))) if match else answer


def display_fractions(answer: str) -> str:
    r"""`\dfrac` for `\frac`."""
    return answer.replace(r"\frac", r"\dfrac")


def spaced(answer: str) -> str:
    """White space around operators and behind commas: `(1,x+2)` as `(1, x + 2)`; words are left as they are."""
    if r"\text" in answer or r"\mbox" in answer:
        return answer
    wide = re.sub(r"(?<![\^_{(\[,=<>+-])([+=<>])", r" \1 ", answer)
    return re.sub(r",(?![0-9]{3}(?![0-9])|\\?!)", ", ", wide)


def plain_text(answer: str) -> str:
    r"""Roots, fractions and pi as in plain text: `\frac{\sqrt{3}}{2}` as `(sqrt(3))/(2)`."""
    text = latex(answer)
    for match in reversed(list(_COMMAND.finditer(text))):
        if match[1] == "pi":
            text = text[: match.start()] + " pi " + text[match.end() :]
            continue
        arguments, end = [], match.end()
        for _ in range(2 if match[1] == "frac" else 1):
            close = closing(text, end) if text[end : end + 1] == "{" else None
            if close is None:
                return answer  # a root with an index, or no LaTeX
            arguments.append(text[end + 1 : close])
            end = close + 1
        before = text[: match.start()]
        if match[1] == "sqrt":
            gap = " " if before[-1:].isalpha() else ""  # behind a command
            text = f"{before}{gap}sqrt({arguments[0]}){text[end:]}"
        elif before[-1:].isdigit():
            return answer  # a mixed number
        else:
            text = f"{before}(({arguments[0]})/({arguments[1]})){text[end:]}"
    return answer if text == latex(answer) else text


REWRITINGS: dict[str, Callable[[str], str]] = {
    "sum reordered": reordered_sum,
    "factors reordered": reordered_factors,
    r"\dfrac": display_fractions,
    "spacing": spaced,
    "plain text": plain_text,
}
