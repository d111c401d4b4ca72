"""A desk per test."""

from pathlib import Path

import pytest

from tests.tpu_scripts.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
