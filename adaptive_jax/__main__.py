"""`python -m adaptive_jax inspect RUN`: what a run is, and whether its files are as they were written.

Exit status 0 where they are, 1 where one is damaged, 2 where there is no run.
"""

import argparse
import sys
from pathlib import Path

from adaptive_jax.runs.inspection import inspect_run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m adaptive_jax")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a run is: config, best row, checkpoints and their health")
    inspect.add_argument("run", type=Path, help="a run directory")
    try:
        text, sound = inspect_run(parser.parse_args().run)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
