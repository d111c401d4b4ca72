"""Side by side: the only way a time is taken here."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.monitoring
import numpy as np

log = logging.getLogger(__name__)

Times = dict[str, list[float]]


@dataclass
class Findings:
    """What a part of the benchmark found.

    Attributes:
        bars: the ratios by name; None where the other side is not at hand.
        details: what they were computed from; seconds belong to this run and machine and mean little elsewhere.
    """

    bars: dict[str, float | None]
    details: dict[str, Any] = field(default_factory=dict)


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True) -> Times:
    """Seconds of each side, `repeats` of each, taken in turn; what a side returns is waited for.

    Args:
        warm_up: call every side once before, untimed, so that no compilation is in the times.
    """
    times: Times = {name: [] for name in sides}
    for repeat in range(-warm_up, repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(side())
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
                log.info("  %-28s %8.3f s", name, times[name][-1])
    return times


def quotient(times: Times, above: str, below: str) -> float:
    """The median over the rounds of one side's time divided by another's in the same round."""
    return float(np.median(np.array(times[above]) / np.array(times[below])))


@contextmanager
def compilations(*functions: str) -> Iterator[list[float]]:
    """The seconds of each compilation of jitted functions, by their names, while the context is open."""
    seconds: list[float] = []
    names = {f"jit({function})" for function in functions}

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and kwargs.get("fun_name") in names:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
