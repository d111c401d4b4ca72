"""For every test: implicit rank promotion and dtype promotion raise, and so do arrays of other shapes than signatures state.

Most of the tests' time is compilation, so what they compile is kept for the next session, of any checkout, in the user's cache
directory (some MB; to be deleted at any time).
"""

import hashlib
import os
import platform
from pathlib import Path

import jax
import pytest

from tests.shapes import check_shapes

check_shapes()  # before anything of the package is imported
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def kept_compilations() -> Path:
    """Of this kind of processor: a home directory may be shared by machines, and code for one may be no code for another."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kind = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.machine())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "adaptive_jax_tests" / hashlib.sha256(kind.encode()).hexdigest()[:16]


# Processes that tests start, and kill, have caches of their own: one that is killed may leave half an entry.
jax.config.update("jax_compilation_cache_dir", str(kept_compilations()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_compilation_cache_max_size", 1 << 30)  # also has the two workers take turns, by a lock

# Two workers take file after file; one that began the longest file last would keep the other waiting.
LONGEST = (
    "test_parallel.py",
    "test_math_token.py",
    "test_math_sequence.py",
    "test_code_sequence.py",
    "test_sandbox.py",
    "test_rollout.py",
    "test_command.py",
    "test_kills.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    items.sort(key=lambda item: Path(item.path).name not in LONGEST)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may depend on a hub being reachable."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
