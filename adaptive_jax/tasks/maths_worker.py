r"""The worker process of `maths_pool`: compares two LaTeX answers with math-verify, one request a line.

Run as a script, so that it imports neither this package nor JAX. In: a JSON line [gold, answer]; out: a JSON line with
the verdict. The first line out says that the worker is ready, or what went wrong. It ends when its stdin does.

Two kernel limits hold whatever sympy does: address space for the process, CPU seconds for each request (SIGXCPU kills).
Only math-verify's LaTeX extraction is used: its plain-expression extraction hands text to Python's `eval`.
"""

import json
import math
import os
import re
import resource
import sys
from dataclasses import replace
from functools import lru_cache

DIGITS, TOLERANCE = 40, 1e-25  # constants are evaluated to that many digits, and compared relatively
_DELIMITER = re.compile(r"\\?\$|(?<!\\)\\[()\[\]]")


def main(seconds: int, megabytes: int) -> None:
    # libraries that print must not speak into the protocol
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: str) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        import logging

        from math_verify import LatexExtractionConfig, parse, verify
        from sympy import Eq, Expr, UnevaluatedExpr

        logging.disable()
    except Exception as fault:
        reply(f"{type(fault).__name__}: {fault}")
        return
    reply("ready")

    # the box alone is read: no other formula, in dollar signs or behind "the answer is", may stand in for one it cannot read
    # and `maths_forms` has brought it to LaTeX: nothing is left to mend, and a letter at the end is a variable, not a unit
    plain = replace(LatexExtractionConfig().normalization_config, units=False, malformed_operators=False, nits=False)
    extraction = [LatexExtractionConfig(False, boxed_match_priority=0, normalization_config=plain)]

    def parsed(answer: str) -> list:
        box = rf"\boxed{{{_DELIMITER.sub(' ', answer)}}}"
        return parse(box, extraction, fallback_mode="no_fallback", parsing_timeout=None)

    def same(gold: list, answer: list) -> bool:
        equal = verify(gold, answer, timeout_seconds=None)
        both_named = isinstance(gold[0], Eq) and isinstance(answer[0], Eq)
        left, right = (
            side[0].rhs if isinstance(side[0], Eq) and (equal or side[0].lhs.is_Symbol) else side[0] for side in (gold, answer)
        )
        if not (isinstance(left, Expr) and isinstance(right, Expr)) or (both_named and not equal):
            return equal
        try:
            sizes = [abs(number.doit().evalf(DIGITS)) for number in (left, right, left - right)]
        except Exception:  # a sum that holds a set, and whatever else sympy cannot evaluate
            return equal
        if not all(size.is_comparable and size.is_finite for size in sizes):  # there are variables, or infinity
            return equal
        # verify rounds small numbers away, and misses some that are equal; but it knows that 50 percent may be called 50
        close = bool(sizes[2] <= TOLERANCE * max(sizes))
        return close or (equal and (left.has(UnevaluatedExpr) or right.has(UnevaluatedExpr)))

    parsed_gold = lru_cache(maxsize=256)(parsed)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent) + seconds, most))
        expression = parsed(answer)
        if not expression:
            reply("unparseable")
        else:
            reply("correct" if same(parsed_gold(gold), expression) else "wrong")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
