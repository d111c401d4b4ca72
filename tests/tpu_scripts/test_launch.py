"""launch.sh, one host's part of a run, and what calls it elsewhere: slurm.sbatch and jobset.yaml."""

import fcntl
import math
import os
import re
import shlex
import signal
import string
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tpu_scripts.desk import SCRIPTS, Desk

UNTIL_GO = 'while [ ! -e "$DESK/go" ]; do sleep 0.02; done'


@pytest.fixture
def host(desk: Desk) -> Desk:
    """A desk that is itself a host."""
    desk.variables = {"RUN_ROOT": str(desk.path / "root")}
    return desk


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_dry_run(host: Desk) -> None:
    ended = host.run("launch.sh", "--dry-run", "qwen", "math_token", "--limit", "5")
    assert shlex.split(ended.out) == [
        *["env", f"JAX_COMPILATION_CACHE_DIR={host.path}/root/jax-cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0"],
        *["uv", "run", "--no-sync", "python", "-m", "experiments.math_token", "--limit", "5"],
        *["--run-dir", f"{host.path}/root/runs/qwen", "--resume", "--distributed"],
    ]
    assert (ended.status, ended.err) == (0, "")
    assert not (host.path / "root").exists()


def test_the_cache_may_lie_elsewhere(host: Desk) -> None:
    host.variables["JAX_COMPILATION_CACHE_DIR"] = "/scratch/cache"
    assert "JAX_COMPILATION_CACHE_DIR=/scratch/cache " in host.run("launch.sh", "--dry-run", "qwen", "math_token").out


def test_it_needs_a_place(desk: Desk) -> None:
    ended = desk.run("launch.sh", "qwen", "math_token")
    assert ended.status == 2
    assert "RUN_ROOT is not set: a directory that every host sees" in ended.err


def test_the_status_is_the_experiments_own(host: Desk) -> None:
    host.hosts("echo out; echo err >&2; exit 7", count=0)
    ended = host.run("launch.sh", "qwen", "math_token")
    assert (ended.status, ended.out, ended.err) == (7, "out\nerr\n", "")
    [log] = (host.path / "root" / "logs" / "qwen").iterdir()
    assert log.read_text() == "out\nerr\n"


def test_a_second_start_watches_the_first(host: Desk) -> None:
    host.hosts(f"echo started; {UNTIL_GO}; exit 7", count=0)
    first = host.start("launch.sh", "qwen", "math_token")
    assert first_line(first) == "started\n"
    second = host.start("launch.sh", "qwen", "math_token")
    assert first_line(second) == "started\n"
    (host.path / "go").touch()
    assert [host.end(process).status for process in (first, second)] == [7, 7]
    assert len(host.ran()) == 1
    (host.path / "go").unlink()
    host.hosts("exit 0", count=0)
    assert host.run("launch.sh", "qwen", "math_token").status == 0  # over and done with: the third runs
    assert len(host.ran()) == 2


def test_a_first_start_that_was_killed(host: Desk) -> None:
    lock = host.path / f"adaptive_jax-{os.getuid()}-qwen.lock"
    log = host.path / "old.log"
    log.write_text("half way\n")
    with lock.open("w") as held:
        held.write(f"{log}\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        process = host.start("launch.sh", "qwen", "math_token")
        assert first_line(process) == "half way\n"
    ended = host.end(process)
    assert ended.status == 1
    assert "qwen was ended from outside" in ended.err


def test_the_experiment_hears_once_that_it_should_end(host: Desk) -> None:
    """The machine's shutdown, and Slurm, tell every process; the experiment may then take the time it needs."""
    host.hosts(f'trap "echo told" TERM; echo started; {UNTIL_GO}; echo saved; exit 9', count=0)
    process = host.start("launch.sh", "qwen", "math_token")
    assert first_line(process) == "started\n"
    os.killpg(process.pid, signal.SIGTERM)
    [log] = (host.path / "root" / "logs" / "qwen").iterdir()
    while "told" not in log.read_text():
        assert process.poll() is None
    (host.path / "go").touch()
    assert host.end(process).status == 9
    assert log.read_text().count("told\n") == 1
    assert log.read_text().endswith("told\nsaved\n")


def test_the_run_outlives_its_watcher(host: Desk) -> None:
    host.hosts(f"echo started; {UNTIL_GO}; for i in 1 2 3 4 5; do echo $i; sleep 0.05; done", count=0)
    process = host.start("launch.sh", "qwen", "math_token")
    assert first_line(process) == "started\n"
    assert process.stdout is not None
    process.stdout.close()
    (host.path / "go").touch()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    process.stderr.close()
    [log] = (host.path / "root" / "logs" / "qwen").iterdir()
    assert log.read_text() == "started\n1\n2\n3\n4\n5\n"


def test_what_is_written_is_synced_meanwhile(host: Desk) -> None:
    host.variables["SYNC_SECONDS"] = "0.02"
    host.fake("sync", 'echo "$@" >>"$DESK/synced"; touch "$DESK/go"')
    host.hosts(UNTIL_GO, count=0)
    assert host.run("launch.sh", "qwen", "math_token").status == 0
    [log] = (host.path / "root" / "logs" / "qwen").iterdir()
    metrics = host.path / "root" / "runs" / "qwen" / "metrics.jsonl"
    assert (host.path / "synced").read_text().splitlines()[0] == f"--data {log} {metrics}"


def test_slurm(desk: Desk, tmp_path: Path) -> None:
    desk.fake("srun", 'echo "$RUN_ROOT" "$@"')
    expected = "--kill-on-bad-exit=1 --label tpu_scripts/launch.sh qwen math_token --limit 5"
    copy = desk.checkout / "tpu_scripts" / "job1"  # Slurm runs a copy, from the directory sbatch was called in
    copy.write_text((SCRIPTS / "slurm.sbatch").read_text())
    desk.variables["SLURM_SUBMIT_DIR"] = str(desk.checkout)
    assert desk.run("job1", "qwen", "math_token", "--limit", "5").out == f"{desk.checkout} {expected}\n"
    desk.variables["RUN_ROOT"] = "/shared"
    assert desk.run("job1", "qwen", "math_token", "--limit", "5").out == f"/shared {expected}\n"
    dry = desk.run("slurm.sbatch", "--dry-run", "qwen", "math_token", "--limit", "5")
    assert (dry.status, dry.out) == (0, f"srun {expected}\n")
    desk.variables["SLURM_SUBMIT_DIR"] = str(tmp_path)
    ended = desk.run("job1", "qwen", "math_token")
    assert ended.status == 2
    assert "is not the checkout of adaptive_jax: call sbatch there" in ended.err


def test_slurms_options_come_before_any_command() -> None:
    """Slurm reads no further than the first command; and JAX wants a process per GPU."""
    lines = (SCRIPTS / "slurm.sbatch").read_text().splitlines()
    first_command = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines[:first_command] if "#SBATCH" in line)
    assert sum("#SBATCH" in line for line in lines) == len(options)
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "requeue" in options


def test_jobset(desk: Desk) -> None:
    text = (SCRIPTS / "jobset.yaml").read_text()
    manifest = yaml.safe_load(string.Template(text).substitute(RUN="qwen", IMAGE="my-image", BUCKET="my-bucket"))
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("JobSet", "qwen")
    [replicated] = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    chips = math.prod(int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert job["parallelism"] == job["completions"] == chips // resources["limits"]["google.com/tpu"]
    assert job["backoffLimit"] == 0
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0
    # the command is one that launch.sh takes
    [root] = [entry["value"] for entry in container["env"] if entry["name"] == "RUN_ROOT"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [root]
    desk.variables = {"RUN_ROOT": root}
    words = [*container["command"], *container["args"]]
    ended = desk.run(Path(words[0]).name, "--dry-run", *words[1:])
    assert (ended.status, ended.err) == (0, "")
    assert "--run-dir /bucket/runs/qwen --resume --distributed" in ended.out
    # the bucket is mounted as run.sh mounts it
    [volume] = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    options = volume["csi"]["volumeAttributes"]["mountOptions"].split(",")
    mounted = re.search(r"gcsfuse (.*) my-bucket", desk_run_command(desk))
    assert mounted is not None
    assert {plain(option) for option in options} == {plain(flag) for flag in mounted[1].split()}


def desk_run_command(desk: Desk) -> str:
    desk.variables = {"PROJECT": "p", "ZONE": "z", "TPU_NAME": "t", "BUCKET": "my-bucket"}
    return desk.run("run.sh", "--dry-run", "qwen", "math_token").out


def plain(option: str) -> str:
    """gcsfuse's flag `--metadata-cache-ttl-secs=0`, and the driver's `metadata-cache:ttl-secs:0`, in one spelling."""
    option = re.sub("^(write|file-system):", "", option.removeprefix("--"))
    return re.sub("[:=]", "-", option)
