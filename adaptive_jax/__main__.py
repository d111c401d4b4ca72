"""The verbs of the command line: `python -m adaptive_jax --help` lists them.

Exit status 0 where all is well, 1 where `inspect` finds damage or `audit-grader` an exception, 2 where there is nothing to
look at or a flag can't be followed, 130 where Ctrl-C ended it.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from adaptive_jax.rollouts.config import RolloutConfig


@dataclass(frozen=True)
class Inspect:
    """What a run is: its flags, best row, checkpoints, and whether its files are sound.

    Attributes:
        run: a run directory.
    """

    run: tyro.conf.Positional[Path]

    def __call__(self) -> tuple[str, bool]:
        from adaptive_jax.runs.inspection import inspect_run

        return inspect_run(self.run)


@dataclass(frozen=True)
class Report:
    """One HTML file with the verdict, figures, tables and completions of a run, or of several side by side.

    Attributes:
        runs: run directories.
        out: the file to write (report.html in the first run if not given).
        picture: an SVG file of one completion of the first run with its actions, written as well.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    picture: Path | None = None

    def __call__(self) -> tuple[str, bool]:
        from adaptive_jax.report.contents import read_run
        from adaptive_jax.report.page import report
        from adaptive_jax.report.picture import picture

        if not self.runs:
            raise ValueError("name at least one run directory")
        path = self.out or self.runs[0] / "report.html"
        if self.picture is not None:
            self.picture.write_text(picture(read_run(self.runs[0])))
        path.write_text(report(self.runs))
        return f"{path} is written\n", True


@dataclass(frozen=True)
class AuditGrader:
    """Whether the grader knows a data set's answers, as they are, changed and rewritten.

    Attributes:
        file: a .jsonl, .json or .parquet file, or the name of a data set.
        limit: how many problems at most.
    """

    file: tyro.conf.Positional[str]
    limit: int | None = None

    def __call__(self) -> tuple[str, bool]:
        from adaptive_jax.tasks.audit import REFERENCE, audit, report
        from adaptive_jax.tasks.loading import load_problems

        problems = load_problems(self.file, limit=self.limit)
        tallies = audit(problems)
        left_out = len(problems) - tallies[REFERENCE].graded
        if left_out == len(problems):
            raise ValueError(f"{self.file} has no answer in mathematics to audit; give a data set of kind math or integer")
        return report(tallies, self.file, left_out), not any(tally.exceptions for tally in tallies.values())


@dataclass(frozen=True)
class Rollout(RolloutConfig):
    __doc__ = RolloutConfig.__doc__

    def __call__(self) -> tuple[str, bool]:
        from adaptive_jax.rollouts.command import rollout

        return rollout(self), True


@dataclass(frozen=True)
class Export:
    """An adapter as a directory that another library decodes with.

    Attributes:
        source: a run directory, the directory of an adapter, or a hub id.
        to: the library.
        out: the directory to write.
        method: which of a run's adapters (the token adapter with budget if not given).
        seed: which training seed (the first if not given).
        model: the base model (that of the run if not given).
        allow_changed: weights or tokenizer, where these may differ.
        license: of the adapter, an identifier of the hub (the one that it has, or apache-2.0, if not given).
        push_to_hub: hub id, such as user/my-adapter, to upload the directory to, with HF_TOKEN or `hf auth login`.
        private: a new repository on the hub is private.
    """

    source: tyro.conf.Positional[str]
    to: Literal["transformers"]
    out: Path
    method: str | None = None
    seed: int | None = None
    model: str | None = None
    allow_changed: tuple[str, ...] = ()
    license: str | None = None
    push_to_hub: str | None = None
    private: bool = False

    def __call__(self) -> tuple[str, bool]:
        from adaptive_jax.export.transformers import export_transformers
        from adaptive_jax.runs.adapters import MAIN
        from adaptive_jax.runs.hub import check_hub_id, upload

        if self.push_to_hub is not None:
            check_hub_id(self.push_to_hub)
        elif self.private:
            raise ValueError("--private: give --push-to-hub USER/NAME, too")
        export_transformers(
            self.source,
            self.out,
            method=self.method or MAIN,
            seed=self.seed,
            model=self.model,
            allow_changed=self.allow_changed,
            license=self.license,
            repository=self.push_to_hub,
        )
        generate = f"model.generate(**inputs, custom_generate={str(self.out)!r}, trust_remote_code=True)"
        print(f"{self.out} is written: {generate}")  # which holds where the hub refuses it, too
        if (name := self.push_to_hub) is None:
            return "", True
        address = upload(self.out, name, private=self.private)
        return f"{address} has it: custom_generate={name!r}, or aj.load_adapter({name!r})\n", True


@dataclass(frozen=True)
class Memory:
    """What a rollout needs of a device's memory; nothing is loaded.

    Attributes:
        model: as the experiments take it; of a hub id, config.json alone is downloaded.
        rows: completions side by side.
        budget: the largest token budget.
        prompt: tokens of the longest prompt.
        dtype: of weights and cache (float32 on a CPU, bfloat16 on a GPU or TPU).
        max_model_len: as the experiments take it.
    """

    model: str
    rows: int = 128
    budget: int = 1024
    prompt: int = 512
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_model_len: int | None = None

    def __call__(self) -> tuple[str, bool]:
        import jax.numpy as jnp

        from adaptive_jax.decoding.memory import described, memory
        from adaptive_jax.lm.model import load_config

        config, dtype = load_config(self.model, self.max_model_len), jnp.dtype(self.dtype)
        need = memory(config, rows=self.rows, prompt=self.prompt, budget=self.budget, dtype=dtype)
        asked = f"{self.rows} rows of {self.prompt} + {self.budget} tokens, {self.dtype}"
        return described(need, f"{self.model}: {asked}"), True


VERBS: dict[str, Callable[..., Any]] = {
    "inspect": Inspect,
    "report": Report,
    "audit-grader": AuditGrader,
    "rollout": Rollout,
    "export": Export,
    "memory": Memory,
}


def main() -> int:
    """Do what the command line asks; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        verb = tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="python -m adaptive_jax", config=(tyro.conf.FlagCreatePairsOff,)
        )
        text, sound = verb()
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        return 130
    print(text, end="")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
