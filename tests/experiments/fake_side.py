"""Sides of the benchmark for the tests of `Opponent`: the name of the model directory says how one behaves."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from experiments.bench.serving import Generate, Tokens, serve, timed


def load(directory: Path) -> tuple[dict[str, Any], Generate]:
    """A side that repeats each prompt's last token, and misbehaves at the tokens 1 to 4."""
    print("loading", directory)

    def generate(prompts: Tokens, new_tokens: int, repeat: int, **sampling: Any) -> dict[str, Any]:
        first = prompts[0][0]
        if first == 1:
            raise ValueError(f"cannot sample so: {sorted(sampling.items())}")
        if first == 2:
            print("out of memory", file=sys.stderr)
            os._exit(5)
        if first == 3:
            return {"tokens": []}
        if first == 4:
            time.sleep(60)
        print("a library's chatter")
        os.write(1, b"and what its C code writes\n")
        tokens, seconds = timed(lambda: [prompt[-1:] * new_tokens for prompt in prompts], repeat)
        return {"tokens": tokens, "seconds": seconds, "compilations": [2, 0]}

    return {"directory": str(directory), "pid": os.getpid()}, generate


if __name__ == "__main__":
    match Path(sys.argv[1]).name:
        case "dies":
            sys.exit("the weights are damaged")
        case "garbage":
            print("Welcome to this library!")
        case _:
            serve(load)
