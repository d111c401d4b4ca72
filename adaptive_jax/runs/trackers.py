"""Where people look already: the metrics of a run in TensorBoard, Weights & Biases or Trackio, as they come.

Each series of metrics (a method with a training seed) is a run there, all of them in one group, and the update is its step: so
the curves of methods and seeds lie over each other. A run that goes on tells all its lines again (`RunDirectory`); each step is
kept once, by starting the files anew, or by passing over what is there.
"""

import functools
import hashlib
import importlib.util
import json
import logging
import operator
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from adaptive_jax.runs.directory import Metrics, plain
from adaptive_jax.runs.fingerprint import Fingerprint

log = logging.getLogger(__name__)

TrackerName = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "adaptive_jax"
FIGURES = "figures"  # the series that the figures are in
_PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


class Series(Protocol):
    """One series of metrics in a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step; steps ascend."""
        ...

    def image(self, path: Path) -> None:
        """Add a PNG file."""
        ...

    def close(self) -> None:
        """Have everything written or sent."""
        ...


class Trackers:
    """Sends a run's lines to trackers. One that fails is left out from then on, with a warning: the run is worth more.

    Args:
        names: which ones.
        directory: of the run.
        fingerprint: what decides the run's numbers; a run that goes on with another one has curves of its own.
        config: what was asked for, by flag.

    Raises:
        ModuleNotFoundError: the package of one is missing; the message says how to install it.
    """

    def __init__(self, names: Sequence[TrackerName], directory: Path, fingerprint: Fingerprint, config: Mapping[str, Any]):
        for name in names:
            if importlib.util.find_spec(_PACKAGES[name]) is None:
                raise ModuleNotFoundError(f"--log-to {name}: {_PACKAGES[name]} is missing; uv sync --extra {name} installs it")
        digest = hashlib.sha256(json.dumps(plain(fingerprint), sort_keys=True).encode()).hexdigest()[:8]
        group = f"{directory.resolve().name}-{digest}"
        self._open: dict[TrackerName, Callable[[str], Series]] = {
            name: functools.partial(_KINDS[name], directory, group, plain(config)) for name in names
        }
        self._series: dict[TrackerName, Series] = {}
        self._current: str | None = None
        self._actions: list[str] = []

    def follow(self, line: Metrics) -> None:
        """Send a line of metrics.jsonl; those that belong to no update, such as settings, are passed over."""
        self._actions = line.get("actions", self._actions)
        if "update" not in line:
            return
        self._go_to(f"{line.get('method', 'adapter')}-seed{line.get('seed', 0)}")
        values = _flat({name: value for name, value in line.items() if name not in ("method", "seed", "update")}, self._actions)
        self._each(operator.methodcaller("log", line["update"], values))

    def figures(self, paths: Sequence[Path]) -> None:
        """Send PNG files, by their names."""
        if paths:
            self._go_to(FIGURES)
        for path in paths:
            self._each(operator.methodcaller("image", path))

    def close(self) -> None:
        """Have everything written or sent."""
        self._each(operator.methodcaller("close"))
        self._series, self._current = {}, None

    def _go_to(self, series: str) -> None:
        if series == self._current:
            return
        self.close()
        self._current = series
        for name, open_series in list(self._open.items()):
            with self._unless_it_fails(name):
                self._series[name] = open_series(series)

    def _each(self, action: Callable[[Series], None]) -> None:
        for name, series in list(self._series.items()):
            with self._unless_it_fails(name):
                action(series)

    @contextmanager
    def _unless_it_fails(self, name: TrackerName) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, such as a network that is down
            log.warning("--log-to %s: %s; the run goes on without it", name, error)
            self._series.pop(name, None)
            self._open.pop(name, None)


def _flat(line: Mapping[str, Any], actions: Sequence[str]) -> dict[str, float]:
    """The numbers of a line; those of a list by action where it has one for each, else by place. Names have no spaces."""
    values: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, list):
            keys = actions if len(actions) == len(value) else range(len(value))
            values |= _flat({f"{name}/{key}".replace(" ", "_"): one for key, one in zip(keys, value, strict=True)}, ())
        elif isinstance(value, int | float):
            values[name] = float(value)
    return values


class _TensorBoard:
    """Event files in RUN/tensorboard, one folder for each series; those of an earlier process are replaced."""

    def __init__(self, directory: Path, group: str, config: Mapping[str, Any], series: str):
        from tensorboardX import SummaryWriter

        folder = directory / "tensorboard" / series
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._writer.add_text("config", "```json\n" + json.dumps(config, indent=2) + "\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(path.stem, np.asarray(picture.convert("RGB")), dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases; its own variables hold: WANDB_MODE=offline, WANDB_PROJECT, WANDB_API_KEY.

    What an earlier process wrote offline is replaced, since nothing of it is known there; online, known steps are passed over.
    """

    def __init__(self, directory: Path, group: str, config: Mapping[str, Any], series: str):
        import wandb

        name = f"{group}-{series}"
        for earlier in (directory / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(earlier)
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
            name=series,
            group=group,
            config=dict(config),
            dir=directory,
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._known = self._run.step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._known:
            self._run.log(dict(values), step=step)

    def image(self, path: Path) -> None:
        if not self._known:
            self._run.log({path.stem: self._image(str(path))})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run of Trackio, on this machine (`trackio show`); steps that it has are passed over."""

    def __init__(self, directory: Path, group: str, config: Mapping[str, Any], series: str):
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        name = f"{group}-{series}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        newest = SQLiteStorage.get_max_step_for_run(project, name)
        self._known, self._image = -1 if newest is None else newest, trackio.Image
        self._run = trackio.init(project, name, group=group, config=dict(config), resume="allow", embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._known:
            self._run.log(dict(values), step=step)

    def image(self, path: Path) -> None:
        if self._known < 0:
            self._run.log({path.stem: self._image(str(path))})

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[TrackerName, Callable[[Path, str, Mapping[str, Any], str], Series]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
