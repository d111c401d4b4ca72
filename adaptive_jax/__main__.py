"""The verbs: `python -m adaptive_jax inspect RUN`, `python -m adaptive_jax audit-grader FILE [--limit N]` and
`python -m adaptive_jax export RUN_OR_ADAPTER --to transformers --out DIR`.

Exit status 0 where all is well, 1 where `inspect` finds damage or `audit-grader` an exception, 2 where there is nothing to
look at or it cannot be written.
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
    export = commands.add_parser("export", help="an adapter as a directory that another library decodes with")
    export.add_argument("source", type=Path, help="a run directory, or the directory of an adapter")
    export.add_argument("--to", choices=["transformers"], required=True, help="the library")
    export.add_argument("--out", type=Path, required=True, help="the directory to write")
    export.add_argument("--method", help="which of a run's adapters; the token adapter with budget without it")
    export.add_argument("--seed", type=int, help="which training seed; the first without it")
    export.add_argument("--model", help="the base model; that of the run without it")
    export.add_argument("--allow-changed", nargs="+", default=[], help="weights or tokenizer, where these may differ")
    flags = parser.parse_args()
    verbs = {
        "inspect": lambda: _inspect(flags.run),
        "audit-grader": lambda: _audit(flags.file, flags.limit),
        "export": lambda: _export(flags),
    }
    try:
        text, sound = verbs[flags.command]()
    except (OSError, ValueError) as error:
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


def _export(flags: argparse.Namespace) -> tuple[str, bool]:
    from adaptive_jax.export.transformers import export_transformers
    from adaptive_jax.runs.adapters import MAIN

    export_transformers(
        flags.source,
        flags.out,
        method=flags.method or MAIN,
        seed=flags.seed,
        model=flags.model,
        allow_changed=flags.allow_changed,
    )
    return (
        f"{flags.out} is written: model.generate(**inputs, custom_generate={str(flags.out)!r}, trust_remote_code=True)\n",
        True,
    )


if __name__ == "__main__":
    sys.exit(main())
