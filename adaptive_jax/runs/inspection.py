"""What a run is, in a page: what was asked for, its best row, its stages and adapters, and whether they are sound on disk."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adaptive_jax.runs.adapters import ADAPTERS, check_adapter
from adaptive_jax.runs.checkpoints import CHECKPOINTS, Checkpoints
from adaptive_jax.runs.directory import METRICS
from adaptive_jax.runs.records import DamagedRecord
from adaptive_jax.runs.sums import SUMS, check_files, read_sums

RECORDS = {ADAPTERS: 1, CHECKPOINTS: 2}  # how deep below these the files of records are

Damage = tuple[Path, str] | None  # a file or record that is not as it was written, and what is wrong with it
Lines = Iterator[tuple[str, Damage]]


def inspect_run(path: Path) -> tuple[str, bool]:
    """A description of a run, and whether all of it is sound, as far as there are sums.

    Raises:
        FileNotFoundError: there is no run.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is no run directory: it has no config.json")
    lines, damaged, unchecked = [f"run {path}"], dict[Path, str](), list[str]()
    for part in (_files(path, unchecked), _config(path), _best(path), _stages(path), _adapters(path)):
        for line, damage in part:
            lines.append(line)
            if damage:
                damaged.setdefault(*damage)
    lines += ["", *[f"DAMAGED: {problem}" for problem in damaged.values()]]
    if not damaged:
        lines.append(
            "all files that were checked are as they were written" if unchecked else "all files are as they were written"
        )
    if unchecked:
        lines.append(f"not checked, for there is no sum of it: {', '.join(unchecked)}")
    return "\n".join(lines) + "\n", not damaged


def _files(path: Path, unchecked: list[str]) -> Lines:
    """The files that have a sum; the names of others that are in no record are added to `unchecked`."""
    known = set()
    try:
        found = sorted(check_files(path, METRICS))
    except DamagedRecord as error:
        found = []
        yield f"\n{SUMS} is damaged", (path / SUMS, str(error))
    else:
        yield f"\n{len(found)} files besides checkpoints and adapters", None
    for name, more, problem in found:
        known.add(name)
        if more:
            unchecked.append(f"the last {more} bytes of {name}")
        yield f"  {'DAMAGED' if problem else 'sound':8} {name}", (path / name, problem) if problem else None
    unchecked += [name for name in _outside_records(path) if name not in known]


def _outside_records(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        folder, *others = name.parts
        in_record = len(others) > RECORDS.get(folder, math.inf)
        if not (file.is_dir() or in_record or name.as_posix() == SUMS or any(part.startswith(".") for part in name.parts)):
            yield name.as_posix()


def _config(path: Path) -> Lines:
    for name in ("config.json", "environment.json"):
        content, damage = _json(path / name)
        yield f"\n{name}", damage
        for key, value in content.items():
            yield f"  {key:20} {json.dumps(value)}", None


def _best(path: Path) -> Lines:
    file = path / "results.json"
    if not file.exists():
        yield "\nno results yet", None
        return
    content, damage = _json(file)
    yield "\nbest row of results.json", damage
    try:
        if rows := content.get("rows"):
            first = [row for row in rows if row["metric"] == "pass@1" and row["method"] != "oracle"] or rows
            best = max(first, key=lambda row: (row["budget"] == "mean", row["value"]))
            value = f"{100 * best['value']:.1f} ± {100 * best['ci95']:.1f}"
            yield f"  {best['method']}, {best['metric']}, CoT {best['cot']}, budget {best['budget']}: {value}", None
    except (KeyError, TypeError) as error:
        yield "  its rows cannot be read", (file, f"{file} has no such rows as results have: {error!r}")


def _stages(path: Path) -> Lines:
    stages = []
    for directory in (path / CHECKPOINTS).glob("[!.]*"):
        records = Checkpoints(directory).paths()
        if records:
            stages.append((max(record.stat().st_mtime_ns for record in records), directory, records))
    yield f"\n{len(stages)} stages with checkpoints, in the order of the last ones", None
    for _, directory, records in sorted(stages):
        for record in records:
            health, damage, facts = _health(Checkpoints(directory).check, record)
            metrics = [line.get("validation_reward") for line in facts.get("metrics", [])]
            best = max((reward for reward in metrics if isinstance(reward, float)), default=None)
            told = "" if best is None else f", best validation reward {best:.3f}"
            yield f"  {health:8} {directory.name} {record.name}{told}", damage
    for name in _known_stages(path):
        folder = path / CHECKPOINTS / name
        if not folder.is_dir() or not any(folder.iterdir()):  # a killed process may leave none but a partial one there
            yield f"  {'MISSING':8} {name}", (folder, f"{folder} is missing, or empty: the stage had a checkpoint")


def _known_stages(path: Path) -> list[str]:
    try:
        return sorted(read_sums(path)[1])
    except DamagedRecord:
        return []  # told of with the files


def _adapters(path: Path) -> Lines:
    directories = sorted((path / ADAPTERS).glob("[!.]*"))
    yield f"\n{len(directories)} adapters", None
    for directory in directories:
        health, damage, facts = _health(check_adapter, directory)
        what = f" ({facts['kind']}, {facts.get('inputs') or facts['pooling']})" if facts else ""
        yield f"  {health:8} {directory.name}{what}", damage


def _health(check: Callable[[Path], dict[str, Any]], record: Path) -> tuple[str, Damage, dict[str, Any]]:
    try:
        return "sound", None, check(record)
    except ValueError as error:
        return "DAMAGED", (record, str(error)), {}


def _json(file: Path) -> tuple[dict[str, Any], Damage]:
    try:
        return dict(json.loads(file.read_bytes())), None
    except (OSError, ValueError, TypeError) as error:
        return {}, (file, f"{file} cannot be read: {error}")
