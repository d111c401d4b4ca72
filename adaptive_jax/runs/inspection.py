"""What a run is, in a page: what was asked for, its best row, its stages and adapters, and whether they are sound on disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adaptive_jax.runs.adapters import ADAPTERS, check_adapter
from adaptive_jax.runs.checkpoints import CHECKPOINTS, Checkpoints


def inspect_run(path: Path) -> tuple[str, bool]:
    """A description of a run, and whether all of it is sound.

    Raises:
        FileNotFoundError: there is no run.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no run directory: it has no config.json")
    lines, damage = [f"run {path}"], list[str]()
    for part in (_config, _best, _stages, _adapters):
        for line, problem in part(path):
            lines.append(line)
            if problem:
                damage.append(problem)
    lines += ["", *[f"DAMAGED: {problem}" for problem in damage]] if damage else ["", "all files are as they were written"]
    return "\n".join(lines) + "\n", not damage


Lines = Iterator[tuple[str, str | None]]


def _config(path: Path) -> Lines:
    for name in ("config.json", "environment.json"):
        content, problem = _json(path / name)
        yield f"\n{name}", problem
        for key, value in content.items():
            yield f"  {key:20} {json.dumps(value)}", None


def _best(path: Path) -> Lines:
    if not (path / "results.json").exists():
        yield "\nno results yet", None
        return
    content, problem = _json(path / "results.json")
    yield "\nbest row of results.json", problem
    if rows := content.get("rows"):
        first = [row for row in rows if row["metric"] == "pass@1" and row["method"] != "oracle"] or rows
        best = max(first, key=lambda row: (row["budget"] == "mean", row["value"]))
        value = f"{100 * best['value']:.1f} ± {100 * best['ci95']:.1f}"
        yield f"  {best['method']}, {best['metric']}, CoT {best['cot']}, budget {best['budget']}: {value}", None


def _stages(path: Path) -> Lines:
    stages = []
    for directory in (path / CHECKPOINTS).glob("[!.]*"):
        records = Checkpoints(directory).paths()
        if records:
            stages.append((max(record.stat().st_mtime_ns for record in records), directory, records))
    yield f"\n{len(stages)} stages with checkpoints, in the order of the last ones", None
    for _, directory, records in sorted(stages):
        for record in records:
            health, problem, facts = _health(Checkpoints(directory).check, record)
            metrics = [line["validation_reward"] for line in facts.get("metrics", []) if "validation_reward" in line]
            best = f", best validation reward {max(metrics):.3f}" if metrics else ""
            yield f"  {health:8} {directory.name} {record.name}{best}", problem


def _adapters(path: Path) -> Lines:
    directories = sorted((path / ADAPTERS).glob("[!.]*"))
    yield f"\n{len(directories)} adapters", None
    for directory in directories:
        health, problem, facts = _health(check_adapter, directory)
        what = f" ({facts['kind']}, {facts.get('inputs') or facts['pooling']})" if facts else ""
        yield f"  {health:8} {directory.name}{what}", problem


def _health(check: Callable[[Path], dict[str, Any]], record: Path) -> tuple[str, str | None, dict[str, Any]]:
    try:
        return "sound", None, check(record)
    except ValueError as error:
        return "DAMAGED", str(error), {}


def _json(file: Path) -> tuple[dict[str, Any], str | None]:
    try:
        return dict(json.loads(file.read_bytes())), None
    except (OSError, ValueError, TypeError) as error:
        return {}, f"{file} cannot be read: {error}"
