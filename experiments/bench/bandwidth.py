"""How near a step comes to what the memory of the card allows: it has to read every weight and each row's own cache columns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.rings import round_up
from adaptive_jax.policies.fixed import static
from experiments.bench.measure import Findings, alternate
from experiments.bench.step import STEPS, Decoding, stream
from experiments.bench.subject import Subject

# Bytes per second by the makers' data sheets, by a part of JAX's name for the device; the first that fits counts.
BANDWIDTH = {
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100 NVL": 3.9e12,
    "H100": 3.35e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100-PCIE-40GB": 1.555e12,
    "A100": 2.0e12,
    "TPU v5 lite": 819e9,
    "TPU v5e": 819e9,
    "TPU v5": 2.765e12,
    "TPU v6 lite": 1.64e12,
    "TPU v4": 1.228e12,
}


def bandwidth_of(device_kind: str) -> float | None:
    """Bytes per second that a device's memory can be read with; None if unknown, or for a CPU."""
    return next((rate for name, rate in BANDWIDTH.items() if name.lower() in device_kind.lower()), None)


def bytes_of_step(subject: Subject, columns: float) -> float:
    """What a step has to read: every weight once, and `columns` cache columns in each row. Embeddings are gathered only."""
    model = subject.decoder.model
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(subject.decoder.params))
    if not subject.config.tie_embeddings:
        weights -= model.embedding[...].nbytes
    cache = jax.eval_shape(lambda: subject.decoder.empty_cache(1, round_up(1)))
    column = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)) / round_up(1)
    return weights + subject.rows * columns * column


def bandwidth(subject: Subject) -> Findings:
    """Bar `step_over_bandwidth`: a step at a static temperature over the time that reading its bytes takes at the card's rate.

    None where the card's rate is not known; the details have the time of a plain pass over weights and cache to compare with.
    """
    # as many steps as are taken: one call to warm up, then the rounds
    decoding = Decoding(subject, static(1.0), STEPS * (1 + subject.repeats))
    cache = subject.decoder.empty_cache(subject.rows, decoding.size)
    sides: dict[str, Callable[[], object]] = {
        "step": decoding,
        "stream": lambda: [stream(subject.decoder, cache) for _ in range(STEPS)],
    }
    times = alternate(sides, subject.repeats)
    if not bool(jnp.all(decoding.state.step == STEPS * (1 + subject.repeats))):
        raise RuntimeError("some rows ended before the last step")
    seconds = float(np.median(times["step"])) / STEPS
    kind = jax.devices()[0].device_kind
    rate = bandwidth_of(kind)
    read = bytes_of_step(subject, subject.prompt_tokens + STEPS * (1 + subject.repeats / 2))
    details = {
        "device": kind,
        "rows": subject.rows,
        "dtype": subject.dtype,
        "bytes": read,
        "bytes_per_second_of_device": rate,
        "seconds_per_step": seconds,
        "seconds_per_plain_pass": float(np.median(times["stream"])) / STEPS,
        "tokens_per_second": subject.rows / seconds,
    }
    return Findings({"step_over_bandwidth": None if rate is None else seconds / (read / rate)}, details)
