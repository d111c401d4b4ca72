"""What a report tells of a run, read from its directory; parts that an unfinished or older run lacks are left out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_jax.evaluation.results import MEAN
from adaptive_jax.runs.directory import read_metrics

OURS = ("token adapter, budget", "sequence adapter, budget")  # whose gain the verdict is about
BASELINE = "best static"


@dataclass(frozen=True)
class RunContents:
    """A run as its files tell it.

    Attributes:
        name: of its directory.
        config, environment: its flags, and what it ran on.
        results: of results.json: "experiment", "model", "dataset" and "rows"; no rows where nothing was finished.
        metrics: the lines of metrics.jsonl.
        samples: the lines of samples.jsonl.
        behaviour: by how problems are asked and by method, see `adaptive_jax.evaluation.behaviour`.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    behaviour: dict[str, dict[str, dict[str, Any]]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the results."""
        return self.results.get("rows", [])

    @property
    def training(self) -> dict[str, list[dict[str, Any]]]:
        """The lines with action probabilities, by method and seed."""
        curves: dict[str, list[dict[str, Any]]] = {}
        for line in self.metrics:
            if "action_probabilities" in line:
                curves.setdefault(f"{line.get('method', 'adapter')}, seed {line.get('seed', 0)}", []).append(line)
        return curves


def read_run(directory: Path) -> RunContents:
    """What there is in a run directory.

    Raises:
        ValueError: it is no run directory, or a file of it is damaged; names the file.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(f"{directory}: no run, which has a config.json; give the directory of a run")
    return RunContents(
        name=directory.resolve().name,
        config=_json(directory / "config.json", {}),
        environment=_json(directory / "environment.json", {}),
        results=_json(directory / "results.json", {}),
        metrics=read_metrics(directory) if (directory / "metrics.jsonl").is_file() else [],
        samples=_lines(directory / "samples.jsonl"),
        behaviour=_json(directory / "behaviour.json", {}),
    )


def _json(path: Path, missing: Any) -> Any:
    if not path.is_file():
        return missing
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); python -m adaptive_jax inspect tells what else is damaged") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: a line is not JSON ({error})") from error


def verdict(run: RunContents) -> str:
    """The run's main result in a sentence."""
    if not run.rows:
        return "The run has no results yet."
    ours = [row for row in run.rows if row["method"] in OURS and row.get("gain")]
    ours = [row for row in ours if row["budget"] == MEAN] or ours
    if not ours:
        best = max(run.rows, key=lambda row: row["value"])
        return f"The best of {len(run.rows)} rows is {best['method']} with {100 * best['value']:.1f} % ({best['metric']})."
    sentences = []
    for row in {(row["metric"], row["cot"]): row for row in ours if row["metric"] in ("pass@1", "pass@8", "reward")}.values():
        low, high = row["gain"]["ci95"]
        words = "ahead of" if low > 0 else "behind" if high < 0 else "not surely different from"
        sentences.append(
            f"{row['metric'].capitalize()}, CoT {row['cot']}: the {row['method']} reaches {100 * row['value']:.1f} % and is "
            f"{words} {row['gain']['over']}, {100 * row['gain']['value']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]."
        )
        if len(row["by_seed"]) > 1:
            sentences.append(f"Its seeds reach {', '.join(f'{100 * value:.1f}' for value in row['by_seed'])} %.")
    return " ".join(sentences)
