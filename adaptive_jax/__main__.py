"""The verbs: `python -m adaptive_jax inspect RUN` and `python -m adaptive_jax audit-grader FILE [--limit N]`.

Exit status 0 where all is well, 1 where `inspect` finds damage or `audit-grader` an exception, 2 where there is nothing to
look at.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m adaptive_jax")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a run is: config, best row, checkpoints and their health")
    inspect.add_argument("run", type=Path, help="a run directory")
    audit = commands.add_parser("audit-grader", help="whether the grader knows a data set's answers, rewritten and changed")
    audit.add_argument("file", help="a .jsonl, .json or .parquet file, or the name of a data set")
    audit.add_argument("--limit", type=int, help="how many problems at most; all without it")
    flags = parser.parse_args()
    try:
        text, sound = _inspect(flags.run) if flags.command == "inspect" else _audit(flags.file, flags.limit)
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0 if sound else 1


def _inspect(run: Path) -> tuple[str, bool]:
    from adaptive_jax.runs.inspection import inspect_run

    return inspect_run(run)


def _audit(file: str, limit: int | None) -> tuple[str, bool]:
    from adaptive_jax.tasks.audit import REFERENCE, audit, report
    from adaptive_jax.tasks.loading import load_problems

    problems = load_problems(file, limit=limit)
    tallies = audit(problems)
    left_out = len(problems) - tallies[REFERENCE].graded
    if left_out == len(problems):
        raise ValueError(f"{file} has no answer in mathematics to audit; give a data set of kind math or integer")
    return report(tallies, file, left_out), not any(tally.exceptions for tally in tallies.values())


if __name__ == "__main__":
    sys.exit(main())
