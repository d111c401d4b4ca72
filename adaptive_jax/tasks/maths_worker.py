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
from functools import lru_cache

SMALL, TOLERANCE = 1e-2, 1e-4  # numbers up to SMALL are compared relatively
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
        from sympy import Expr

        logging.disable()
    except Exception as fault:
        reply(f"{type(fault).__name__}: {fault}")
        return
    reply("ready")

    # the box alone is read: no other formula, in dollar signs or behind "the answer is", may stand in for one it cannot read
    extraction = [LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)]

    def parsed(answer: str) -> list:
        box = rf"\boxed{{{_DELIMITER.sub(' ', answer)}}}"
        return parse(box, extraction, fallback_mode="no_fallback", parsing_timeout=None)

    def same(gold: list, answer: list) -> bool:
        if not verify(gold, answer, timeout_seconds=None):
            return False
        # it rounds to 6 decimals, so that all small numbers are alike
        left, right = (getattr(side[0], "rhs", side[0]) for side in (gold, answer))
        if not (isinstance(left, Expr) and isinstance(right, Expr)):
            return True
        sizes = [abs(number.doit().evalf(20)) for number in (left, right, left - right)]
        if not all(size.is_comparable for size in sizes):  # there are variables
            return True
        return bool(max(sizes) > SMALL or sizes[2] <= TOLERANCE * max(sizes))

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
