"""setup.sh, run.sh and delete.sh, on a slice that the fake gcloud plays."""

import re
import shlex
import signal
import subprocess

import pytest

from tests.tpu_scripts.desk import MISSING, Answer, Desk, state

REQUEST = "queued-resources describe"
ACTIVE = (REQUEST, [state("ACTIVE")])
NO_VM: tuple[str, list[Answer]] = ("tpu-vm describe", [MISSING])
UNABLE: Answer = (1, "", "ERROR: (gcloud) 503 unavailable\n")


def commit(desk: Desk) -> None:
    """Make the desk's checkout one."""
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=me", "-c", "user.email=m@e", "commit", "--quiet", "-m", "it"],
    ):
        subprocess.run(["git", *words], cwd=desk.checkout, check=True, env=desk.environment())


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("WAITING_FOR_RESOURCES", "not yet ACTIVE: run create.sh, which waits for it"),
        ("SUSPENDED", "its slice is gone: run delete.sh, then create.sh"),
        (None, "there is no adaptive-1 in us-west4-a: run create.sh first"),
    ],
)
@pytest.mark.parametrize("script", [["setup.sh"], ["run.sh", "qwen", "math_token"]])
def test_without_a_slice_nothing_is_sent(desk: Desk, script: list[str], name: str | None, advice: str) -> None:
    commit(desk)
    desk.answer((REQUEST, [MISSING if name is None else state(name)]))
    ended = desk.run(*script)
    assert (ended.status, ended.verbs()) == (1, [REQUEST])
    assert advice in ended.err


def test_setup_dry(desk: Desk) -> None:
    ended = desk.run("setup.sh", "--dry-run")
    assert (ended.status, ended.err, ended.calls) == (0, "", [])
    commands = [shlex.split(line) for line in ended.out.splitlines()]
    assert [command[0] for command in commands[:3]] == ["git", "gcloud", "git"]
    assert all(command[3] == "tpu-vm" and "--worker=all" in command for command in commands[3:])
    assert len(commands) == 9


def test_setup_puts_the_commit_on_every_host(desk: Desk) -> None:
    commit(desk)
    desk.answer(ACTIVE)
    for number in range(2):
        desk.fake("uv", 'mkdir -p .venv/bin; printf "#!/bin/sh\\necho 0 4 16" >.venv/bin/python; chmod +x .venv/bin/python; '
                  'echo "$@" >>../uv-did', place=f"host{number}/.local/bin")  # fmt: skip
    desk.fake("curl", 'echo "$@" >>downloads; touch gcsfuse.deb')
    desk.fake("sudo", 'exec "$@"')
    desk.fake("apt-get", 'test -f gcsfuse.deb && echo "$@" >>installed')
    for _ in range(2):  # again over the first one
        ended = desk.run("setup.sh")
        assert ended.status == 0, ended.err
        assert ended.out.count("0 4 16\n") == 2
    assert "costs money until delete.sh" in ended.err
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=desk.checkout, capture_output=True, text=True, check=True).stdout
    for home in (desk.path / "host0", desk.path / "host1"):
        there = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=home / "adaptive_jax", capture_output=True, text=True, check=True
        )
        assert there.stdout == head
        assert (home / "adaptive_jax" / "tpu_scripts" / "launch.sh").exists()
        assert (home / "uv-did").read_text().splitlines()[:2] == [
            "sync --quiet --no-dev --inexact",
            "pip install --quiet jax[tpu]",
        ]
        assert "gcsfuse_3.8.0_amd64.deb" in (home / "downloads").read_text()
        assert "install" in (home / "installed").read_text()


def test_setup_refuses_changes_that_no_commit_holds(desk: Desk) -> None:
    commit(desk)
    (desk.checkout / "experiments" / "math_token.py").write_text("changed = True\n")
    ended = desk.run("setup.sh")
    assert (ended.status, ended.calls) == (1, [])
    assert "commit or stash them" in ended.err


def test_setup_that_fails_on_a_host(desk: Desk) -> None:
    commit(desk)
    desk.answer(ACTIVE, ("ssh", [(0, "", ""), (1, "", "worker 1: no space left\n")]))
    ended = desk.run("setup.sh")
    assert ended.status == 1
    assert "no space left" in ended.err
    assert "installing gcsfuse failed on at least one host. adaptive-1 is up and costs money" in ended.err


def test_run_on_every_host(desk: Desk) -> None:
    desk.hosts('echo "reward 0.5 on $HOME"')
    desk.answer(ACTIVE)
    flags = ["--model", 'it\'s a "model" of $HOME', "--budget", "512", "1024"]
    ended = desk.run("run.sh", "qwen", "math_token", *flags)
    assert ended.status == 0, ended.err
    bucket = [f"{desk.path}/host{number}/bucket" for number in range(2)]
    uv = ["run", "--no-sync", "python", "-m"]
    assert desk.ran() == [
        [f"{b}/jax-cache", *uv, "experiments.math_token", *flags, "--run-dir", f"{b}/runs/qwen", "--resume", "--distributed"]
        for b in bucket
    ]
    logs = sorted((desk.path / "bucket" / "logs" / "qwen").iterdir())
    for number, log in enumerate(logs):
        assert re.fullmatch(rf"host{number}-\d{{8}}-\d{{6}}\.log", log.name)
        assert log.read_text() == f"reward 0.5 on {desk.path}/host{number}\n"
        assert log.read_text() in ended.out
    assert len(logs) == 2
    assert "gs://my-bucket/runs/qwen. adaptive-1 is still up and costs money until delete.sh" in ended.err


def test_run_dry(desk: Desk) -> None:
    ended = desk.run("run.sh", "--dry-run", "qwen", "math_token", "--limit", "5")
    assert (ended.status, ended.err, ended.calls) == (0, "", [])
    look, ssh = [shlex.split(line) for line in ended.out.splitlines()]
    assert look[3:5] == ["queued-resources", "describe"]
    assert ssh[3:7] == ["tpu-vm", "ssh", "adaptive-1", "--worker=all"]
    assert ssh[7].endswith("tpu_scripts/launch.sh qwen math_token --limit 5")
    assert " my-bucket ~/bucket; }" in ssh[7]


def test_an_experiment_that_fails_on_one_host(desk: Desk) -> None:
    desk.hosts('case "$HOME" in *host1) echo "error: no such model"; exit 2 ;; esac')
    desk.answer(ACTIVE)
    ended = desk.run("run.sh", "qwen", "math_token")
    assert ended.status == 2
    assert ended.verbs() == [REQUEST, "tpu-vm ssh", REQUEST]  # no waiting: the experiment itself said no
    assert "error: no such model" in ended.out
    assert "logs are in gs://my-bucket/logs/qwen. adaptive-1 is still up and costs money" in ended.err


@pytest.mark.parametrize("status", [255, 143])
def test_a_slice_that_is_taken_away(desk: Desk, status: int) -> None:
    desk.answer(
        (REQUEST, [state("ACTIVE"), state("ACTIVE"), state("ACTIVE"), state("SUSPENDING")]), ("ssh", [(status, "", "")])
    )
    ended = desk.run("run.sh", "qwen", "math_token")
    assert ended.status == 75
    assert "adaptive-1 was taken away (SUSPENDING) and costs nothing now" in ended.err
    assert "gs://my-bucket/runs/qwen" in ended.err


def test_a_connection_that_breaks_is_made_again(desk: Desk) -> None:
    desk.answer(ACTIVE, ("ssh", [(255, "", ""), (0, "", "")]))
    ended = desk.run("run.sh", "qwen", "math_token")
    assert ended.status == 0
    assert ended.verbs().count("tpu-vm ssh") == 2
    assert "the connection broke, qwen goes on: connecting again" in ended.err


def test_a_slice_that_cannot_be_reached(desk: Desk) -> None:
    desk.variables["POLL_SECONDS"] = "0"
    desk.answer(ACTIVE, ("ssh", [(255, "", "")]))
    ended = desk.run("run.sh", "qwen", "math_token")
    assert ended.status == 255
    assert ended.verbs().count("tpu-vm ssh") == 5
    assert "adaptive-1 is still up and costs money" in ended.err


def test_run_interrupted_says_that_the_run_goes_on(desk: Desk) -> None:
    desk.hosts('echo started; while [ ! -e "$DESK/go" ]; do sleep 0.02; done', count=1)
    desk.answer(ACTIVE)
    process = desk.start("run.sh", "qwen", "math_token")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    (desk.path / "go").touch()
    ended = desk.end(process)
    assert ended.status == 130
    assert "qwen goes on, and adaptive-1 costs money" in ended.err


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["qwen"], "give a name for the run and an experiment"),
        (["Qwen/4B", "math_token"], "run 'Qwen/4B': give lower-case letters, digits and dashes"),
        (["qwen", "math_tokens"], "there is no experiments/math_tokens.py"),
        (["qwen", "math_token", "--run-dir", "x"], "leave out --run-dir"),
        (["qwen", "math_token", "--resume"], "leave out --resume"),
        (["qwen", "math_token", "--distributed"], "leave out --distributed"),
    ],
)
@pytest.mark.parametrize("script", ["run.sh", "launch.sh"])
def test_malformed_runs(desk: Desk, script: str, words: list[str], mend: str) -> None:
    desk.variables["RUN_ROOT"] = str(desk.path)
    ended = desk.run(script, *words)
    assert (ended.status, ended.calls) == (2, [])
    assert mend in ended.err


def test_delete(desk: Desk) -> None:
    desk.answer((REQUEST, [state("ACTIVE"), MISSING]), NO_VM)
    ended = desk.run("delete.sh")
    assert ended.status == 0
    assert ended.verbs() == [REQUEST, "queued-resources delete", REQUEST, "tpu-vm describe"]
    assert {"--force", "--quiet", "adaptive-1"} <= set(ended.calls[1])
    assert "nothing named adaptive-1 is left in us-west4-a to cost money" in ended.err


def test_delete_where_there_is_nothing(desk: Desk) -> None:
    desk.answer((REQUEST, [MISSING]), NO_VM)
    ended = desk.run("delete.sh")
    assert (ended.status, ended.verbs()) == (0, [REQUEST, "tpu-vm describe"])


def test_delete_dry(desk: Desk) -> None:
    ended = desk.run("delete.sh", "--dry-run")
    assert (ended.status, ended.err, ended.calls) == (0, "", [])
    verbs = [shlex.split(line)[3:5] for line in ended.out.splitlines()]
    assert verbs == [REQUEST.split(), ["queued-resources", "delete"], REQUEST.split(), ["tpu-vm", "describe"]]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(REQUEST, [state("ACTIVE")]), ("queued-resources delete", [UNABLE])], "was not deleted and may still cost money"),
        ([(REQUEST, [state("ACTIVE"), state("DELETING")])], "is still there, DELETING, and may cost money"),
        ([(REQUEST, [UNABLE])], "cannot see whether adaptive-1 is up and costs money"),
        ([(REQUEST, [MISSING]), ("tpu-vm describe", [UNABLE])], "cannot see whether adaptive-1 is up and costs money"),
        (
            [(REQUEST, [MISSING]), ("tpu-vm describe", [(0, "READY\n", "")])],
            "a TPU VM named adaptive-1 is READY and may cost money",
        ),
    ],
)
def test_delete_never_says_that_it_is_gone_when_it_may_not_be(
    desk: Desk, answers: list[tuple[str, list[Answer]]], said: str
) -> None:
    desk.answer(*answers)
    ended = desk.run("delete.sh")
    assert ended.status == 1
    assert said in ended.err
    assert "is left in" not in ended.err
