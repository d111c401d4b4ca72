"""Many devices and many hosts: the only file that knows how many there are.

Rollouts are data-parallel within a process: its rows are split into replicas, one per device, each with its own ring, prompts,
waiting completions, and with the model's parameters replicated (`Replicas.call`). Processes share the questions out among
themselves, and none waits for another while it decodes (`share`, `gather`). Learning is data-parallel over all devices of all
processes: each takes a part of the decisions, and gradients are summed (`Replicas.update`).

`jax.pmap` maps over devices. It is in maintenance mode, and `jit(shard_map(...))` since jax 0.8, which is spelled out where a
replica is several devices that share a model between them (a mesh axis that is left to XLA): should pmap go, this file changes.
"""

import contextlib
import functools
import io
import itertools
import math
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # the store has no public name; orbax uses it as well
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from adaptive_jax.lm.sharding import DATA, MODEL

_ASKED, _STOPPING, _MEETING = "adaptive_jax/asked", "adaptive_jax/stopping", "adaptive_jax/meeting"  # keys of the store
_LOOK_OUT = 500  # milliseconds between two looks for a request to stop, while others are waited for
_meetings = itertools.count()  # all processes meet equally often

HEARTBEAT_SECONDS = 60  # a process that is not heard of for so long is dead, and the job ends

TreeT = TypeVar("TreeT")
ResultT = TypeVar("ResultT")


def local_mesh(model_parallel: int = 1) -> Mesh | None:
    """This process's devices as a mesh of axes "data" and "model", or None for a single device.

    Raises:
        ValueError: their number is no multiple of `model_parallel`.
    """
    devices = jax.local_devices()
    if model_parallel < 1 or len(devices) % model_parallel:
        raise ValueError(
            f"--model-parallel {model_parallel}: this process has {len(devices)} devices, and a model takes a whole part of "
            f"them: give one of {', '.join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)}"
        )
    return Mesh(np.array(devices).reshape(-1, model_parallel), (DATA, MODEL)) if len(devices) > 1 else None


@dataclass(frozen=True)
class Replicas:
    """The parts that rows are split into, and the devices that they live on.

    On the host, arrays are flat: row r of R belongs to replica r // (R / count). On the devices of several replicas they have a
    leading axis of replicas, [count, R / count, ..]; where there is one, there is none, and nothing here costs anything.

    Attributes:
        mesh: devices with axes "data" (replicas) and "model" (those of a replica); None for a single device.
    """

    mesh: Mesh | None = None

    @classmethod
    def of(cls, tree: Any) -> "Replicas":
        """Those of a pytree of parameters, by where it was put: on a mesh such as `local_mesh` makes, or on one device."""
        for leaf in jax.tree.leaves(tree):
            sharding = getattr(leaf, "sharding", None)
            if (
                isinstance(sharding, NamedSharding)
                and isinstance(mesh := sharding.mesh, Mesh)
                and mesh.axis_names == (DATA, MODEL)
            ):
                return cls(mesh)
        return cls()

    @property
    def count(self) -> int:
        """How many replicas."""
        return 1 if self.mesh is None else self.mesh.shape[DATA]

    def replicate(self, tree: TreeT) -> TreeT:
        """A pytree of arrays on all devices, so that no call has to bring it there."""
        return tree if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def split(self, tree: TreeT) -> TreeT:
        """Flat arrays, [R, ..], as the replicas' functions take them; R is a multiple of `count`."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda x: x.reshape(self.count, -1, *x.shape[1:]), tree)

    def join(self, array: Shaped[Array, "..."], axis: int = 0) -> Shaped[np.ndarray, "..."]:
        """The other way round, on the host; `axis` is that of the rows in each replica's array."""
        if self.mesh is None:
            return np.asarray(array)
        stacked = np.moveaxis(np.asarray(array), 0, axis)
        before, (replicas, rows, *behind) = stacked.shape[:axis], stacked.shape[axis:]
        return stacked.reshape(*before, replicas * rows, *behind)

    def call(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        split: tuple[Any, ...],
        *,
        donate: int = 0,
        **static: Any,
    ) -> Any:
        """`function(*shared, *split, **static)` on every replica.

        Args:
            function: a jitted function of one replica.
            shared: arguments that are the same in all replicas, such as parameters.
            split: arguments with a leading axis of replicas (see the class).
            donate: the first so many of `split` are donated, as `function` itself donates them.
            static: hashable keyword arguments.
        """
        if self.mesh is None:
            return function(*shared, *split, **static)
        mapped = _over_replicas(function, self.mesh, len(shared), len(split), donate, tuple(static.items()))
        return mapped(*shared, *split)

    def update(self, function: Callable[..., Any], learner: tuple[Any, ...], batch: Any, *rest: Any, **static: Any) -> Any:
        """`function(*learner, batch, *rest, **static)` with the batch split over all devices of all processes.

        Args:
            function: an update; on several devices it is given `axis`, over which it is to sum what it takes from its batch.
            learner: what is updated, the same everywhere.
            batch: a pytree of arrays [M, ..], this process's part. Zeros are added along all axes, until all processes have the
                same shapes (they run one program) and M is a multiple of their devices.
            rest: further arguments that are the same everywhere.
            static: hashable keyword arguments.

        Returns:
            What `function` returns, which is the same everywhere.
        """
        if self.mesh is None and jax.process_count() == 1:
            return function(*learner, batch, *rest, **static)
        devices = tuple(jax.devices() if self.mesh is None or jax.process_count() > 1 else self.mesh.devices.ravel())
        local = sum(device.process_index == jax.process_index() for device in devices)
        leaves, structure = jax.tree.flatten(batch)
        shapes = np.split(largest(np.concatenate([x.shape for x in leaves])), np.cumsum([x.ndim for x in leaves])[:-1])

        def spread(x: Shaped[Array, "..."], shape: Int[np.ndarray, " axes"]) -> Shaped[np.ndarray, "devices share ..."]:
            count, *others = shape.tolist()
            size = (local * math.ceil(count / local), *others)
            padded = np.pad(np.asarray(x), [(0, after - before) for before, after in zip(x.shape, size, strict=True)])
            return padded.reshape(local, -1, *others)

        mapped = _over_devices(function, devices, len(learner), len(rest), tuple(static.items()))
        return mapped(*learner, jax.tree.unflatten(structure, map(spread, leaves, shapes)), *rest)


@functools.cache
def _over_replicas(
    function: Callable[..., Any], mesh: Mesh, shared: int, split: int, donated: int, static: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    def replica(*arguments: Any) -> Any:
        return function(*arguments, **dict(static))

    donate = tuple(range(shared, shared + donated))
    if mesh.shape[MODEL] == 1:
        in_axes = (None,) * shared + (0,) * split
        return jax.pmap(replica, axis_name=DATA, in_axes=in_axes, donate_argnums=donate, devices=tuple(mesh.devices.ravel()))

    def block(*arguments: Any) -> Any:
        own = jax.tree.map(lambda x: jnp.squeeze(x, 0), arguments[shared:])
        return jax.tree.map(lambda x: jnp.expand_dims(x, 0), replica(*arguments[:shared], *own))

    in_specs = (PartitionSpec(),) * shared + (PartitionSpec(DATA),) * split
    mapped = jax.shard_map(
        block, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(DATA), axis_names={DATA}, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate)


@functools.cache
def _over_devices(
    function: Callable[..., Any], devices: tuple[jax.Device, ...], learner: int, rest: int, static: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    def part(*arguments: Any) -> Any:
        return function(*arguments, **dict(static), axis=DATA)

    in_axes = (None,) * learner + (0,) + (None,) * rest
    return jax.pmap(part, axis_name=DATA, in_axes=in_axes, out_axes=None, devices=devices)


def summed(tree: TreeT, axis: str | None) -> TreeT:
    """The sums of a pytree over the devices that an update is split over; `axis` as `Replicas.update` gives it."""
    return tree if axis is None else jax.lax.psum(tree, axis)


def connect() -> None:
    """Join the job's other processes: JAX finds them by itself on TPU slices, under Slurm and on Kubernetes.

    Elsewhere the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them. A process that
    dies, or loses its host, ends the others within about `HEARTBEAT_SECONDS`, with a message of JAX's runtime. To be called
    before anything is computed.

    Raises:
        ValueError: there is nothing to tell who the others are, or it is no number.
    """
    number, own = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM until a run listens to it itself
    try:
        jax.distributed.initialize(  # the address it reads from the environment by itself
            num_processes=number,
            process_id=own,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,  # one that ends by itself, with an error, waits for the others so long
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: the job's processes did not find each other ({error}). It needs a TPU slice, Slurm, Kubernetes, "
            "or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; leave it out for a single process"
        ) from error


def _number(variable: str) -> int | None:
    """What an environment variable says; None where it is not set."""
    text = os.environ.get(variable)
    if text and not text.isdecimal():
        raise ValueError(f"--distributed: {variable} is {text!r}: give a number")
    return int(text) if text else None


def memory_limit() -> int:
    """Bytes of memory of this process's devices together; on CPUs that of the machine."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return sum(limits) if all(limits) else machine_memory()


def machine_memory() -> int:
    """Bytes of memory of this process's machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_main_process() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


def share(count: int) -> Int[np.ndarray, " own"]:
    """Which of `count` items are this process's: every one is exactly one process's.

    Raises:
        ValueError: there are fewer items than processes.
    """
    if count < jax.process_count():
        raise ValueError(
            f"{count} questions cannot be shared out among {jax.process_count()} processes: give more of them (--limit and "
            "--train-limit say how many problems there are, --prompts how many an update has), or start fewer processes"
        )
    return np.arange(jax.process_index(), count, jax.process_count())


def rows_here(rows: int) -> int:
    """This process's part of `rows` rows."""
    return -(-rows // jax.process_count())


def gather(own: Shaped[np.ndarray, "own ..."], count: int) -> Shaped[np.ndarray, "all ..."]:
    """Arrays of all processes' `count` items, in their order; `own` are those of `share(count)`."""
    if jax.process_count() == 1:
        return own
    everything = np.empty((count, *own.shape[1:]), own.dtype)
    for number, theirs in enumerate(exchange({"own": own})):
        everything[number :: jax.process_count()] = theirs["own"]
    return everything


def total(value: Any) -> Any:
    """The sum of a number or array over all processes."""
    return value if jax.process_count() == 1 else sum(theirs["value"] for theirs in exchange({"value": np.asarray(value)}))


def largest(value: Any) -> Any:
    """The largest of all processes' numbers, in each place of an array."""
    if jax.process_count() == 1:
        return value
    return np.max([theirs["value"] for theirs in exchange({"value": np.asarray(value)})], axis=0)


def on_main_process(action: Callable[[], ResultT]) -> ResultT:
    """What `action` returns in process 0, which alone runs it, in all processes; so is the error that it raises there."""
    if jax.process_count() == 1:
        return action()
    outcome: tuple[Any, Exception | None] = (None, None)
    if is_main_process():
        try:
            outcome = action(), None
        except Exception as error:
            outcome = None, error
    content = np.frombuffer(pickle.dumps(outcome), np.uint8) if is_main_process() else np.zeros(0, np.uint8)
    told = exchange({"outcome": content})[0]["outcome"].tobytes()
    result, failure = outcome if is_main_process() else pickle.loads(told)  # process 0 keeps its error's traceback
    if failure is not None:
        raise failure
    return result


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and did.

    Attributes:
        status: the exit status that says so, 128 plus the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.status = 128 + number


def ask_to_stop(number: int) -> None:
    """Tell the job's other processes that this one has got a signal. May be called from any thread."""
    if _store() is not None:  # and there are others; jax.process_count() would wait for a backend that is being set up
        _store().key_value_set(f"{_ASKED}/{jax.process_index()}", str(number), allow_overwrite=True)


def stop_requested() -> int:
    """The signal that the job is to stop for, 0 if it is not; to be asked by the main thread, in any process at any time.

    Process 0 alone decides that the job stops, so that it cannot decide both that and, in `meet`, that it goes on.
    """
    asked = [int(number) for _, number in _store().key_value_dir_get(f"{_ASKED if is_main_process() else _STOPPING}/")]
    if asked and is_main_process():
        _store().key_value_set(f"{_STOPPING}/signal", str(max(asked)), allow_overwrite=True)
    return max(asked, default=0)


def meet() -> None:
    """Wait until all processes are here, before they do something together: there, none may wait for one that has stopped.

    Each tells that it has come, and process 0 that all have. Until then whoever waits looks out for a request to stop. One that
    finds the request, and only then no word of process 0, knows that there will be none.

    Raises:
        Stopped: the job is to stop; so it does in all processes, here or where they next ask `stop_requested`.
    """
    number = next(_meetings)
    for other in range(1, jax.process_count()) if is_main_process() else (0,):
        if not is_main_process():
            _store().key_value_set(f"{_MEETING}/{number}/{jax.process_index()}", "here")
        while True:
            requested = stop_requested()
            if requested and is_main_process():
                raise Stopped(requested)
            try:
                _store().blocking_key_value_get(f"{_MEETING}/{number}/{other}", _LOOK_OUT)
                break
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if requested:
                raise Stopped(requested)
    if is_main_process():
        _store().key_value_set(f"{_MEETING}/{number}/0", "all are here")
        if number:
            _store().key_value_delete(f"{_MEETING}/{number - 1}/")


def leave_together() -> None:
    """Wait until all processes have stopped: JAX ends a job whose first process waits long for the last."""
    if jax.process_count() > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # one of them is dead, or still compiling
            _store().wait_at_barrier("adaptive_jax/stopped", 1000 * HEARTBEAT_SECONDS)


def _store() -> Any:
    """The key-value store of the job's processes, which waits for none of them, unlike collectives."""
    return distributed.global_state.client


def exchange(own: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What each process gave, in the order of the processes, bit for bit; all must call it."""
    if jax.process_count() == 1:
        return [dict(own)]
    meet()
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **own)
    content = np.frombuffer(stream.getvalue(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(content)] = content
    everyones = np.asarray(multihost_utils.process_allgather(padded))
    return [dict(np.load(io.BytesIO(row[:size].tobytes()))) for row, size in zip(everyones, sizes.tolist(), strict=True)]
