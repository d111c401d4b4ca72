"""rollout_array.sbatch: each job of the array is told which of how many it is, in words that the verb understands."""

import shlex

import pytest

from adaptive_jax.rollouts.config import RolloutConfig
from tests.tpu_scripts.desk import Desk


def test_a_job_of_the_array(desk: Desk) -> None:
    desk.variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    ended = desk.run("rollout_array.sbatch", "--dry-run", "--out", "a b", "--dataset", "arithmetic")
    words = shlex.split(ended.out)
    assert words[:7] == ["uv", "run", "--no-sync", "python", "-m", "adaptive_jax", "rollout"]
    assert words[7:] == ["--out", "a b", "--dataset", "arithmetic", "--shards", "3/8"]
    assert RolloutConfig(dataset="arithmetic", shards=words[-1]).job == (3, 8)


def test_a_job_called_again_alone(desk: Desk) -> None:
    desk.variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "JOBS": "8"}
    assert desk.run("rollout_array.sbatch", "--dry-run", "--out", "x").out.split()[-1] == "3/8"


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["--dataset", "math"], {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1"}, "give the rollout's directory"),
        (["--out", "x"], {}, "this is no job of an array"),
    ],
)
def test_what_is_missing_is_named(desk: Desk, words: list[str], variables: dict[str, str], message: str) -> None:
    desk.variables = variables
    ended = desk.run("rollout_array.sbatch", "--dry-run", *words)
    assert ended.status == 2
    assert message in ended.err
