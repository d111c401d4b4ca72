"""What a job believes of a shard that two manifests tell of."""

from pathlib import Path

import pyarrow as pa
import pytest

from adaptive_jax.rollouts.shards import Shards


def test_a_shard_made_anew_by_another_division_is_not_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its file has other bytes than the first manifest says, as on a GPU."""
    with Shards(tmp_path, 2, (0, 1), {}, {}) as whole:
        for shard in whole.todo:
            whole.finish(shard, pa.table({"text": ["first"]}))
    (tmp_path / "rows" / "shard-00000.parquet").unlink()
    with Shards(tmp_path, 2, (0, 2), {}, {}) as half:
        assert half.todo == [0]
        half.finish(0, pa.table({"text": ["second"]}))
    caplog.clear()
    with Shards(tmp_path, 2, (0, 2), {}, {}) as again:
        assert again.todo == []
    assert caplog.text == ""
