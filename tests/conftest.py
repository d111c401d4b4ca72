"""For every test: implicit rank promotion and dtype promotion raise, and so do arrays of other shapes than signatures state.

Most of the tests' time is compilation. So it is fast rather than good (`XLA_FLAGS= uv run pytest` compiles as users do),
and is kept for the next session, of any checkout, in the user's cache directory (some MB; to be deleted at any time).
"""

import atexit
import gc
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

if sys.dont_write_bytecode:
    # Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of a hundred processes would compile JAX's Python code.
    # Bytecode goes to a directory that ends with the session. Workers are told by the environment, and do not come here.
    sys.dont_write_bytecode, sys.pycache_prefix = False, tempfile.mkdtemp(prefix="adaptive_jax_bytecode_")
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # set by -B, it is not

import jax
import pytest

from tests.shapes import check_shapes

FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FAST)  # also of the processes that tests start

# JAX's many objects are looked through less often, for 7 % less time
gc.set_threshold(20_000, 20, 100)

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


# Processes that tests start share it, but for those that are killed: one of those may leave half an entry.
KEPT = kept_compilations()
MOST = 1 << 30  # bytes; JAX would see to it, too, but by looking at all files each time that it adds one
os.environ |= {"JAX_COMPILATION_CACHE_DIR": str(KEPT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
jax.config.update("jax_compilation_cache_dir", str(KEPT))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

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


def pytest_sessionstart(session: pytest.Session) -> None:
    """What was kept is thrown away where it has become too much, before the workers begin."""
    if "PYTEST_XDIST_WORKER" not in os.environ and sum(file.stat().st_size for file in KEPT.glob("*")) > MOST:
        shutil.rmtree(KEPT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    items.sort(key=lambda item: Path(item.path).name not in LONGEST)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may depend on a hub being reachable."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
