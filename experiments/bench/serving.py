"""How a side of the benchmark answers: one JSON request a line on stdin, one JSON answer a line on stdout.

Runs under the other side's interpreter too, so it needs the standard library only.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tokens = list[list[int]]
Generate = Callable[..., dict[str, Any]]


def serve(load: Callable[[Path], tuple[dict[str, Any], Generate]]) -> None:
    """Load the model directory that the command line names, say hello, then answer requests until stdin ends.

    Whatever libraries print goes to stderr. A request that fails is answered by {"error": traceback}.

    Args:
        load: from the model directory to the hello, and the function that gets each request as keyword arguments.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        hello, generate = load(Path(sys.argv[1]))
        print(json.dumps(hello), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = generate(**json.loads(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)


def timed(call: Callable[[], Tokens], repeat: int) -> tuple[Tokens, list[float]]:
    """What the last of `repeat` calls returned, and how many seconds each took."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        tokens = call()
        seconds.append(time.perf_counter() - start)
    return tokens, seconds
