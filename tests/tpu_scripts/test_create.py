"""create.sh: what it asks gcloud for, and how it ends when it does not get it."""

import os
import shlex
import signal

import pytest

from tests.tpu_scripts.desk import MISSING, VARIABLES, Answer, Desk, state

COSTS_NOTHING = ("nothing costs money", "Nothing is left that costs money", "nothing of that name costs money")
REQUEST = "queued-resources describe"
CREATE = "queued-resources create"
QUOTA = "ERROR: (gcloud.compute.tpus.queued-resources.create) Quota limit 'TPUV5sPreemptible' has been exceeded. Limit: 0.\n"
TAKEN = "ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource 'adaptive-1' already exists\n"


def refusal(words: str) -> tuple[str, list[Answer]]:
    return CREATE, [(1, "", words)]


def test_dry_run_prints_every_command_and_runs_none(desk: Desk) -> None:
    ended = desk.run("create.sh", "--spot", "--dry-run")
    assert (ended.status, ended.err, ended.calls) == (0, "", [])
    where = ["--zone=us-west4-a", "--project=my-project", "--quiet"]
    describe = "--format=value(state.state,tpu.nodeSpec[0].node.acceleratorType)"
    look = ["gcloud", "compute", "tpus", "queued-resources", "describe", "adaptive-1", describe, *where]
    assert [shlex.split(line) for line in ended.out.splitlines()] == [
        ["gcloud", "storage", "buckets", "describe", "gs://my-bucket", "--project=my-project", "--format=value(name)"],
        look,
        [
            *["gcloud", "compute", "tpus", "queued-resources", "create", "adaptive-1", "--node-id=adaptive-1"],
            *["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"],
            *["--valid-until-duration=6h", "--spot", *where],
        ],
        look,
    ]


@pytest.mark.parametrize("spot", [False, True])
def test_it_asks_and_waits_until_the_slice_is_up(desk: Desk, spot: bool) -> None:
    states = ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    desk.answer((REQUEST, [MISSING, *map(state, states)]))
    ended = desk.run("create.sh", *["--spot"] * spot)
    assert ended.status == 0
    assert ended.verbs() == ["storage buckets describe", REQUEST, CREATE, *[REQUEST] * 4]
    assert ("--spot" in ended.calls[2]) == spot
    said = [line.split()[-1] for line in ended.err.splitlines() if " is " in line]
    assert said[:2] == ["WAITING_FOR_RESOURCES", "PROVISIONING"]
    assert "costs money until delete.sh" in ended.err


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-64", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_boot_image_follows_from_the_accelerator(desk: Desk, kind: str, image: str) -> None:
    desk.variables["ACCELERATOR_TYPE"] = kind
    assert f"--runtime-version={image} " in desk.run("create.sh", "--dry-run").out
    desk.variables["RUNTIME_VERSION"] = "mine"
    assert "--runtime-version=mine " in desk.run("create.sh", "--dry-run").out


@pytest.mark.parametrize("waiting", [[], ["WAITING_FOR_RESOURCES", "PROVISIONING"]])
def test_what_exists_already_is_not_asked_for_again(desk: Desk, waiting: list[str]) -> None:
    desk.answer((REQUEST, [state(name) for name in [*waiting, "ACTIVE"]]))
    ended = desk.run("create.sh")
    assert ended.status == 0
    assert CREATE not in ended.verbs()
    assert "adaptive-1 exists already: nothing new is asked for" in ended.err
    assert "costs money until delete.sh" in ended.err


def test_a_name_taken_by_another_kind_of_slice(desk: Desk) -> None:
    desk.answer((REQUEST, [state("ACTIVE", "v5p-64")]))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert CREATE not in ended.verbs()
    assert "adaptive-1 is taken by a v5p-64 (ACTIVE), and you ask for a v5litepod-16" in ended.err
    assert "export another TPU_NAME" in ended.err
    assert "what is there may cost money" in ended.err


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (QUOTA, "the quota for v5litepod-16 in us-west4-a is used up: ask for more"),
        ("ERROR: (gcloud) RESOURCE_EXHAUSTED: 429\n", "the quota for v5litepod-16"),
        (TAKEN, "the name adaptive-1 is taken: export another TPU_NAME"),
        ("ERROR: (gcloud) PERMISSION_DENIED: tpu.nodes.create\n", "the request was refused, for the reason above"),
    ],
)
def test_a_refused_request(desk: Desk, words: str, mend: str) -> None:
    desk.answer((REQUEST, [MISSING]), refusal(words))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert words in ended.err
    assert mend in ended.err
    assert "Nothing was created, nothing costs money" in ended.err
    assert ended.verbs()[-1] == REQUEST  # it looked before it said so


@pytest.mark.parametrize("words", [TAKEN, "ERROR: (gcloud) DEADLINE_EXCEEDED\n"])
def test_a_refused_request_that_exists_all_the_same(desk: Desk, words: str) -> None:
    desk.answer((REQUEST, [MISSING, state("PROVISIONING")]), refusal(words))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert "There is one named adaptive-1, PROVISIONING, which may cost money: delete.sh removes it" in ended.err
    assert not any(words in ended.err for words in COSTS_NOTHING)


@pytest.mark.parametrize("end", ["FAILED", "SUSPENDING", "SUSPENDED"])
def test_taken_away_while_it_is_created(desk: Desk, end: str) -> None:
    desk.answer(
        ("queued-resources describe --format=yaml(state)", [(0, "state: stockout in us-west4-a\n", "")]),
        (REQUEST, [MISSING, state("PROVISIONING"), state(end)]),
    )
    ended = desk.run("create.sh", "--spot")
    assert ended.status == 1
    assert "stockout in us-west4-a" in ended.err
    assert f"adaptive-1 is {end}" in ended.err
    assert "Nothing is left that costs money" in ended.err
    assert "run delete.sh, then create.sh" in ended.err


@pytest.mark.parametrize("end", ["FAILED", "SUSPENDED"])
def test_a_dead_request_of_the_same_name(desk: Desk, end: str) -> None:
    desk.answer((REQUEST, [state(end)]))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert CREATE not in ended.verbs()
    assert "run delete.sh, then create.sh" in ended.err


def test_a_request_that_somebody_else_deletes(desk: Desk) -> None:
    desk.answer((REQUEST, [MISSING, state("PROVISIONING"), MISSING]))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert "somebody else deleted it: nothing of that name costs money" in ended.err


def test_a_state_that_cannot_be_seen(desk: Desk) -> None:
    broken = (1, "", "ERROR: (gcloud) There was a problem refreshing your current auth tokens\n")
    desk.answer((REQUEST, [MISSING, state("PROVISIONING"), broken]))
    ended = desk.run("create.sh")
    assert ended.status == 1
    assert "auth tokens" in ended.err
    assert "cannot see whether adaptive-1 is up and costs money" in ended.err
    assert not any(words in ended.err for words in COSTS_NOTHING)


def test_interrupted_while_it_waits(desk: Desk) -> None:
    desk.answer((REQUEST, [MISSING, state("WAITING_FOR_RESOURCES")]))
    process = desk.start("create.sh")
    assert process.stderr is not None
    assert "WAITING_FOR_RESOURCES" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGTERM)
    ended = desk.end(process)
    assert ended.status == 130
    assert "adaptive-1 stays in the queue and costs money as soon as it is up" in ended.err


def test_without_its_bucket_nothing_is_asked_for(desk: Desk) -> None:
    desk.answer(("storage buckets", [(1, "", "ERROR: (gcloud.storage.buckets.describe) gs://my-bucket not found: 404.\n")]))
    ended = desk.run("create.sh")
    assert (ended.status, ended.verbs()) == (1, ["storage buckets describe"])
    assert "nothing costs money" in ended.err
    assert "gcloud storage buckets create gs://my-bucket --project=my-project --location=us-west4 " in ended.err


@pytest.mark.parametrize("script", ["create.sh", "setup.sh", "run.sh", "delete.sh"])
def test_every_missing_variable_is_named(desk: Desk, script: str) -> None:
    desk.variables = {}
    ended = desk.run(script, *["name", "math_token"] * (script == "run.sh"))
    needed = {"create.sh": ["ACCELERATOR_TYPE", "BUCKET"], "run.sh": ["BUCKET"]}.get(script, [])
    assert (ended.status, ended.calls) == (2, [])
    for name in ["PROJECT", "ZONE", "TPU_NAME", *needed]:
        assert f"error: {name} is not set: " in ended.err
        assert f"export {name}=" in ended.err
    assert len(ended.err.splitlines()) == 3 + len(needed)


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("TPU_NAME", "Adaptive_1", "lower-case letters"),
        ("BUCKET", "gs://my-bucket", "the bucket's name alone"),
        ("ACCELERATOR_TYPE", "v5e-16", "v5litepod-N (that is v5e)"),
    ],
)
def test_malformed_variables(desk: Desk, name: str, value: str, mend: str) -> None:
    desk.variables[name] = value
    ended = desk.run("create.sh")
    assert (ended.status, ended.calls) == (2, [])
    assert f"{name} '{value}'" in ended.err
    assert mend in ended.err


def test_unknown_options(desk: Desk) -> None:
    ended = desk.run("create.sh", "--preemptible")
    assert (ended.status, ended.calls) == (2, [])
    assert "unknown option '--preemptible' (see create.sh --help)" in ended.err


@pytest.mark.parametrize("script", ["create.sh", "setup.sh", "run.sh", "delete.sh", "launch.sh"])
def test_help_needs_no_variables(desk: Desk, script: str) -> None:
    desk.variables = {}
    ended = desk.run(script, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert f"  {script} [" in ended.out
    assert "set -euo" not in ended.out
    assert all(name in ended.out for name in VARIABLES if name in ("PROJECT", "TPU_NAME") and script != "launch.sh")
