"""Rollouts from the command line: what the files hold, and what killed, divided and damaged ones come to."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pyarrow import parquet

import adaptive_jax as aj
from adaptive_jax.__main__ import main
from adaptive_jax.rollouts.columns import TYPES
from adaptive_jax.runs.records import file_digest

OPTIONS = "--limit 9 --completions 4 --budget 24 --seed 3 --rows 8 --shard-size 4 --temperature 0.9 --top-k 40 --top-p 0.95"
ASKED = ["--dataset", "arithmetic", "--cot", "none", "--min-p", "0.01", *OPTIONS.split()]


@pytest.fixture(scope="module")
def lm() -> aj.LM:
    return aj.load_lm("tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the verb in this process: exit status, standard output, standard error."""

    def call(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["adaptive_jax", "rollout", *map(str, flags)])
        status = main()
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rollout that was left alone, in a process of its own, which fills a cache of compilations."""
    folder = tmp_path_factory.mktemp("rollout")
    with start(folder / "whole", folder / "cache") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "9 shards written, 0 were there; 9 make the rollout" in out
    return folder / "whole"


def start(out: Path, cache: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "adaptive_jax", "rollout", *ASKED, "--grade", "--out", str(out), *flags]
    kept = variables | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(command, env=os.environ | kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "rows").glob("shard-*"))}


def manifest(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "manifest.json").read_text())


def rows(directory: Path) -> list[dict[str, Any]]:
    return parquet.read_table(directory / "rows").to_pylist()  # the folder as a whole


def test_rows_are_what_python_draws_and_the_grader_says(whole: Path, lm: aj.LM) -> None:
    problems = aj.load_problems("arithmetic", limit=9)
    found = rows(whole)
    assert [(row["id"], row["completion"]) for row in found] == [(f"{p.id}#direct", j) for p in problems for j in range(4)]
    assert all(list(row) == list(TYPES) for row in found)
    prompts = [aj.Prompt(f"{p.id}#direct", lm.tokenizer.encode(aj.prompt(lm, p, cot=False)), 24) for p in problems]
    policy = aj.static(0.9, 40, 0.95, 0.01)
    options = {"key": jax.random.key(3), "stop_ids": lm.stop_ids, "completions": 4, "logprobs": True}
    done = aj.rollout(lm.decoder, policy, prompts, rows=8, **options)
    graded = aj.grade_many([p for p in problems for _ in range(4)], [row["text"] for row in found])
    for n, row in enumerate(found):
        length = done.lengths[n]
        assert row["tokens"] == done.new_tokens(n).tolist()
        assert row["text"] == lm.tokenizer.decode(row["tokens"], skip_special_tokens=True)
        for name in ("logprobs", "model_logprobs", "entropy"):
            np.testing.assert_allclose(row[name], getattr(done, name)[n, :length], atol=1e-5, rtol=0)
        assert row["actions"] == [0] * length
        assert row["settings"][0] == pytest.approx({"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01})
        assert (row["finish_reason"], row["budget"], row["seed"]) == ("stop" if done.stopped[n] else "budget", 24, 3)
        assert (row["verdict"], row["reward"]) == (graded[n], graded[n] == "correct")
    told = manifest(whole)["shards"]
    assert [told[name]["rows"] for name in sorted(told)] == [4] * 9
    assert {name: entry["sha256"] for name, entry in told.items()} == {
        name: file_digest(whole / "rows" / name) for name in shards(whole)
    }


def test_the_processes_of_a_job_share_the_shards(whole: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
    cache = whole.parent / "cache"
    job = [start(tmp_path, cache, "--distributed", **told, JAX_PROCESS_ID=str(number)) for number in range(2)]
    printed = [process.communicate(timeout=300) for process in job]
    assert [process.returncode for process in job] == [0, 0], printed
    assert ["5 shards written" in printed[0][0], "4 shards written" in printed[1][0]] == [True, True]
    assert shards(tmp_path) == shards(whole)
    manifests = [json.loads((tmp_path / f"manifest-{number}-of-2.json").read_text()) for number in range(2)]
    assert manifests[0]["shards"] | manifests[1]["shards"] == manifest(whole)["shards"]


def test_a_killed_rollout_comes_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """Killed as soon as the first shard is there, then at the fifth, then left alone."""
    for name in ("shard-00000.parquet", "shard-00004.parquet"):
        with start(tmp_path, whole.parent / "cache") as process:
            while not (tmp_path / "rows" / name).exists():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.001)
            process.kill()
        assert shards(tmp_path).items() <= shards(whole).items()
        assert len(shards(tmp_path)) < 9
    with start(tmp_path, whole.parent / "cache") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "were there; 9 make the rollout" in out
    assert " 0 were there" not in out
    assert shards(tmp_path) == shards(whole)
    assert manifest(tmp_path)["shards"] == manifest(whole)["shards"]


def test_jobs_damage_and_changed_flags(whole: Path, tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The union of two jobs is the rollout, whose own command takes it over; what is damaged is made anew, nothing is mixed."""
    asked = [*ASKED, "--grade", "--out", tmp_path]
    assert run(*asked, "--shards", "0/2")[0] == 0
    assert list(shards(tmp_path)) == [f"shard-0000{number}.parquet" for number in range(0, 9, 2)]
    assert "4 shards written, 0 were there" in run(*asked, "--shards", "1/2")[1]
    assert "0 shards written, 9 were there" in run(*asked)[1]
    assert shards(tmp_path) == shards(whole)
    assert manifest(tmp_path)["shards"] == manifest(whole)["shards"]

    damaged = tmp_path / "rows" / "shard-00007.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert "1 shards written, 8 were there" in run(*asked)[1]
    assert f"{damaged} is damaged" in caplog.text
    assert shards(tmp_path) == shards(whole)

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, _, err = run(*asked, "--top-k", "41")
    assert status == 2
    assert "policy was" in err
    assert "Nothing was changed" in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_completion_is_drawn_again_alone(whole: Path, run: Any) -> None:
    row = rows(whole)[14]
    status, out, _ = run(*ASKED, "--grade", "--only", f"{row['id']}:{row['completion']}")
    alone = json.loads(out)
    assert status == 0
    for name, value in row.items():
        exact = name not in ("logprobs", "model_logprobs", "entropy")
        assert alone[name] == (value if exact else pytest.approx(value, abs=1e-5)), name


def test_rows_choose_budget_settings_and_columns(lm: aj.LM, tmp_path: Path, run: Any) -> None:
    """With a reward of one's own, which sees the row's further fields."""
    reward = tmp_path / "own.py"
    reward.write_text("def f(problem, text):\n    return float(problem.metadata.get('wanted', '?') in text)\n")
    asked = [
        {"prompt": "Compute 1+1.", "id": "greedy", "budget": 9, "temperature": 0.0, "wanted": ""},
        {"messages": [{"role": "user", "content": "Compute 5+7."}]},
        {"prompt": "Compute 2+2.", "temperature": 0},
        {"prompt": "Compute 2+2."},
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    flags = ["--completions", 2, "--budget", 12, "--rows", 4, "--reward", f"{reward}:f", "--out", tmp_path / "out"]
    columns = ["reward", "id", "prompt", "settings", "tokens", "budget"]
    assert run("--prompts", file, "--temperature", 0.5, *flags, "--columns", *columns)[0] == 0
    found = rows(tmp_path / "out")
    assert list(found[0]) == columns
    assert found[0]["id"] == "greedy"
    assert found[6]["id"] == found[4]["id"] + "-2"
    assert [row["settings"][0]["temperature"] for row in found[::2]] == [0, 0.5, 0, 0.5]
    assert [row["budget"] for row in found[::2]] == [9, 12, 12, 12]
    assert found[2]["prompt"] == lm.tokenizer.apply_chat_template(
        asked[1]["messages"], tokenize=False, add_generation_prompt=True
    )
    assert [row["reward"] for row in found[:2]] == [1.0, 1.0]
    greedy = aj.generate(lm, ["Compute 1+1."], aj.static(0.0), max_new_tokens=9, rows=4)[0][0]
    assert found[0]["tokens"] == found[1]["tokens"] == greedy.tokens.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1}, "line 2: give one of the fields 'prompt' and 'messages'; it has 'id'"),
        ({"prompt": "a", "top_p": 1.5}, r"line 2: top_p must be in (0, 1]"),
        ({"prompt": "a", "budget": "9"}, "line 2: field 'budget' is '9'"),
        ({"prompt": "a", "id": "first"}, "line 2: id 'first' is taken"),
        ({"messages": "hello"}, "line 2: field 'messages' must be a list"),
        ({"prompt": "a", "budget": 5000}, "context of 1024"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], message: str, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text(json.dumps({"prompt": "b", "id": "first"}) + "\n" + json.dumps(row) + "\n")
    status, _, err = run("--prompts", file, "--out", tmp_path / "out")
    assert status == 2
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out x", "one of --dataset and --prompts"),
        ("--dataset arithmetic", "--out DIRECTORY"),
        ("--dataset arithmetic --out x --policy y --top-k 3", "--top-k is of no use with --policy"),
        ("--prompts a.txt --out x --grade", "--reward FILE.py:FUNCTION"),
        ("--dataset arithmetic --out x --columns tokens nonsense", "--columns nonsense: no such column"),
        ("--dataset arithmetic --out x --columns reward", "give --grade or --reward"),
        ("--prompts a.csv --out x", "ends in .jsonl"),
        ("--dataset arithmetic --limit 2 --only no:0", "--only no:0: give ID:COMPLETION"),
    ],
)
def test_a_bad_flag_is_named(flags: str, message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*flags.split())
    assert status == 2
    assert message in err
    assert not list(tmp_path.iterdir())
