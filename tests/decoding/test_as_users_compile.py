"""Bits depend on how XLA compiles, and the other tests compile fast rather than well (`tests/conftest.py`)."""

import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("test_transformer_rollout.py")
TESTS = ("sampled_completions_do_not_depend_on_company", "completions_that_outgrow_their_ring_go_on_in_the_next_one")


def test_draws_hold_as_users_compile_the_loop() -> None:
    """With the embedded model, whatever the rows, the chunks, the refills and the rings."""
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", *(f"{FILE}::test_{name}" for name in TESTS)]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
