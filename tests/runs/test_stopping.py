"""Signals to a real process: the first asks, a second Ctrl-C ends it even in the middle of a long computation."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from adaptive_jax.runs import stopping
from adaptive_jax.runs.stopping import Stop, Stopped

# Loads the module by itself: the package would take seconds. {WORK} is what the process is at when signals come.
SCRIPT = """
import importlib.util, hashlib, sys, time
spec = importlib.util.spec_from_file_location("stopping", sys.argv[1])
stopping = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stopping)
stop = stopping.Stop()
with stop:
    print("ready", flush=True)
    try:
        WORK
    except stopping.Stopped as stopped:
        print("saved", flush=True)
        sys.exit(stopped.status)
"""
PATIENT = "exec('while True: time.sleep(0.01); stop.check()')"
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # C code without a look at signals, as a compilation is


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that waits for signals; none outlives the test."""
    started = []

    def start(work: str, *, ignoring: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT.replace("WORK", work), stopping.__file__]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.default_int_handler)
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks(start: Callable[..., subprocess.Popen[str]], number: signal.Signals, status: int) -> None:
    process = start(PATIENT)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (status, "saved\n")
    assert err.startswith("stopping: saving first; a second Ctrl-C ends this at once")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(start: Callable[..., subprocess.Popen[str]], first: signal.Signals) -> None:
    process = start(BUSY)
    process.send_signal(first)
    assert process.stderr.readline().startswith("stopping")
    process.send_signal(signal.SIGTERM)  # a second SIGTERM is no sign of impatience
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "ended at once\n")


def test_what_a_background_job_ignores_stays_ignored(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(PATIENT, ignoring=True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "saved\n"
    assert process.returncode == 143


def test_afterwards_signals_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    stop = Stop()
    with stop:
        assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
        stop.check()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert issubclass(Stopped, KeyboardInterrupt)
