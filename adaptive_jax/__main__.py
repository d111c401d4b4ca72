"""The verbs: `python -m adaptive_jax inspect RUN`, `audit-grader FILE [--limit N]`, `rollout` (see its --help) and
`export RUN_OR_ADAPTER --to transformers --out DIR`.

Exit status 0 where all is well, 1 where `inspect` finds damage or `audit-grader` an exception, 2 where there is nothing to
look at or a flag can't be followed, 130 where Ctrl-C ended it.
"""

import argparse
import logging
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
    _rollout_flags(commands.add_parser("rollout", help="completions of many prompts as Parquet files; safe to kill"))
    export = commands.add_parser("export", help="an adapter as a directory that another library decodes with")
    export.add_argument("source", help="a run directory, the directory of an adapter, or a hub id")
    export.add_argument("--to", choices=["transformers"], required=True, help="the library")
    export.add_argument("--out", type=Path, required=True, help="the directory to write")
    export.add_argument("--method", help="which of a run's adapters; the token adapter with budget without it")
    export.add_argument("--seed", type=int, help="which training seed; the first without it")
    export.add_argument("--model", help="the base model; that of the run without it")
    export.add_argument("--allow-changed", nargs="+", default=[], help="weights or tokenizer, where these may differ")
    export.add_argument("--license", help="of the adapter; the one it has, or apache-2.0, without it")
    export.add_argument("--push-to-hub", metavar="USER/NAME", help="upload the directory, too; HF_TOKEN or `hf auth login`")
    export.add_argument("--private", action="store_true", help="a new repository on the hub is private")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    verbs = {
        "inspect": lambda: _inspect(flags.run),
        "audit-grader": lambda: _audit(flags.file, flags.limit),
        "rollout": lambda: (_rollout(flags), True),
        "export": lambda: _export(flags),
    }
    try:
        text, sound = verbs[flags.command]()
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        return 130
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


def _rollout_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="tiny", help='"tiny", "smollm2", a hub id, a directory, or a .gguf file')
    add(
        "--prompts",
        help="a .jsonl, .json, .parquet or .txt file (rows: see adaptive_jax/rollouts/requests.py); - is standard input",
    )
    add("--dataset", help="the name of a data set, or a file of problems, instead of --prompts")
    add("--split", default="test", help="of a named data set")
    add("--limit", type=int, help="problems of the data set at most")
    add("--cot", choices=("none", "all", "mix"), default="all", help="which problems are asked step by step")
    add("--policy", help="a run, or one adapter of it; otherwise one setting for all:")
    add("--temperature", type=float, help="1 without it; 0 is greedy")
    add("--top-k", type=int, help="0 without it, which keeps all")
    add("--top-p", type=float, help="1 without it")
    add("--min-p", type=float, help="0 without it")
    add("--completions", type=int, default=8, help="of each prompt")
    add("--budget", type=int, default=256, help="token budget")
    add("--stop", nargs="*", default=[], help=r"a completion ends at the first of these texts; \n and \t as usual")
    add("--seed", type=int, default=0, help="fixes every draw")
    add("--out", help="a directory; with shards of this rollout in it, goes on with it")
    add("--grade", action="store_true", help="have the completions graded")
    add("--reward", metavar="FILE.py:FUNCTION", help="grades instead of the data set's grader")
    add("--columns", nargs="+", help="those that are wanted (adaptive_jax/rollouts/columns.py); all without it")
    add("--shard-size", type=int, default=4096, help="rows of a file at most, but whole prompts")
    add("--rows", type=int, default=128, help="completions decoded side by side")
    add("--shards", type=_job, metavar="I/N", help="be job I of N, from 0, which share the directory")
    add("--only", metavar="ID:COMPLETION", help="draw one completion again and print it")


def _job(text: str) -> tuple[int, int]:
    number, _, jobs = text.partition("/")
    if not (number.isdecimal() and jobs.isdecimal() and int(number) < int(jobs)):
        raise argparse.ArgumentTypeError(f"{text} is no job: give I/N with I from 0 to N - 1, such as 0/8")
    return int(number), int(jobs)


def _rollout(flags: argparse.Namespace) -> str:
    from adaptive_jax.rollouts.command import rollout

    return rollout(flags)


def _export(flags: argparse.Namespace) -> tuple[str, bool]:
    from adaptive_jax.export.transformers import export_transformers
    from adaptive_jax.runs.adapters import MAIN
    from adaptive_jax.runs.hub import check_hub_id, upload

    name = flags.push_to_hub
    if name is not None:
        check_hub_id(name)
    elif flags.private:
        raise ValueError("--private: give --push-to-hub USER/NAME, too")
    export_transformers(
        flags.source,
        flags.out,
        method=flags.method or MAIN,
        seed=flags.seed,
        model=flags.model,
        allow_changed=flags.allow_changed,
        license=flags.license,
        repository=name,
    )
    text = f"{flags.out} is written: model.generate(**inputs, custom_generate={str(flags.out)!r}, trust_remote_code=True)\n"
    if name is not None:
        try:
            address = upload(flags.out, name, private=flags.private)
        except (OSError, ValueError):
            print(text, end="")
            raise
        text += f"{address} has it: custom_generate={name!r}, or aj.load_adapter({name!r})\n"
    return text, True


if __name__ == "__main__":
    sys.exit(main())
