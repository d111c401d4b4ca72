"""IFEval (arXiv 2311.07911): prompts with instructions that a program can verify, and whether a text follows them.

A prompt's instructions stand in `Problem.metadata` as the data set has them: `instruction_id_list`, and `kwargs` with one
object of arguments for each.
"""

from collections.abc import Mapping
from typing import Any

from adaptive_jax.tasks.ifeval_checks import INSTRUCTIONS
from adaptive_jax.tasks.problem import MalformedRow, MissingPackage, Problem, Verdict
from adaptive_jax.tasks.text_units import missing_package


def verdict(problem: Problem, text: str) -> Verdict:
    """ "correct" where the text strictly follows every instruction, else "wrong"."""
    return "correct" if all(followed(problem, text)) else "wrong"


def followed(problem: Problem, text: str, *, loose: bool = False) -> list[bool]:
    """Whether a text follows each instruction of its prompt, in their order; a blank text follows none.

    Args:
      loose: follow the paper's section 2.2, which forgives an introduction, a closing line and Markdown's stars: an instruction
        is followed where any of eight texts follows it, namely the text without its first line, its last line, both or
        neither, each with and without its `*`.

    Raises:
      ImportError: an instruction needs a package of the extra `tasks`; `load_problems` refuses such a row beforehand.
    """
    texts = [candidate for candidate in (_variants(text) if loose else [text]) if candidate.strip()]
    results = []
    for name, arguments in zip(problem.metadata["instruction_id_list"], problem.metadata["kwargs"], strict=True):
        check = INSTRUCTIONS[name].check
        results.append(any(check(candidate, **arguments) for candidate in texts))
    return results


def _variants(text: str) -> list[str]:
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [variant.replace("*", "") for variant in cut]


def read_instructions(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of one row: its `instruction_id_list` and `kwargs`, checked, and without arguments that are null.

    Raises:
      MalformedRow: a field is missing, an instruction is unknown, an argument is missing, unknown or of the wrong kind.
      MissingPackage: an instruction needs a package that is not installed.
    """
    names, given = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list | tuple) or not names:
        raise MalformedRow("field 'instruction_id_list' is no list of instructions; write [\"punctuation:no_comma\", ...]")
    if unknown := [name for name in names if name not in INSTRUCTIONS]:
        known = ", ".join(sorted(INSTRUCTIONS))
        raise MalformedRow(f"field 'instruction_id_list' has the unknown instruction {unknown[0]!r}; known are {known}")
    if given is None:
        raise MalformedRow(
            "no field 'kwargs'; give a list with one object of arguments for each instruction, {} where it has none"
        )
    if not isinstance(given, list | tuple) or len(given) != len(names) or not all(isinstance(part, Mapping) for part in given):
        raise MalformedRow(f"field 'kwargs' is no list of {len(names)} objects, one for each instruction")
    for name in names:
        if (needed := INSTRUCTIONS[name].needs) and (package := missing_package(needed)):
            raise MissingPackage(name, package)
    kwargs = []
    for place, (name, part) in enumerate(zip(names, given, strict=True)):
        try:
            kwargs.append(INSTRUCTIONS[name].read(part))
        except MalformedRow as fault:
            raise MalformedRow(f"field 'kwargs', entry {place + 1} ({name}): {fault}") from None
    return {"instruction_id_list": list(names), "kwargs": kwargs}
