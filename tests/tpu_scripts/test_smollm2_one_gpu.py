"""smollm2_one_gpu.sh: parts that share the time, in words that the experiments understand."""

import shlex
import signal
import time

import pytest
import tyro

from experiments.config import Config
from experiments.instructions_sequence import InstructionsSequence
from experiments.math_sequence import MathSequence
from experiments.math_token import MathToken
from tests.tpu_scripts.desk import Desk

SCRIPT = "smollm2_one_gpu.sh"
CONFIGS: dict[str, type[Config]] = {
    "experiments.math_sequence": MathSequence,
    "experiments.math_token": MathToken,
    "experiments.instructions_sequence": InstructionsSequence,
}
PARTS = ["sequence", "gsm8k_sequence", "token", "gsm8k_token", "instructions"]


@pytest.fixture
def card(desk: Desk) -> Desk:
    """A desk with data, and with experiments that note their names in DESK/ran and do as DESK/NAME says."""
    (desk.path / "data").mkdir()
    for name in ("gsm8k_train", "gsm8k_test", "ifeval_400"):
        (desk.path / "data" / f"{name}.jsonl").touch()
    note = 'for word; do [ "$word" = --resume ] || last=$word; done; name=${last##*/}; echo "$name" >>"$DESK/ran"'
    desk.fake("python", f'{note}; . "$DESK/$name"')
    desk.variables = {"DATA": str(desk.path / "data"), "PYTHON": str(desk.path / "bin" / "python")}
    for name in PARTS:
        (desk.path / name).write_text("echo done")
    return desk


@pytest.mark.parametrize("size", [[], ["--small"]])
def test_the_experiments_understand_every_word(card: Desk, size: list[str]) -> None:
    ended = card.run(SCRIPT, "--dry-run", *size, "out")
    seconds = 0
    for name, line in zip(PARTS, ended.out.splitlines(), strict=True):
        words = shlex.split(line)
        module = words[words.index("-m") + 1]
        config = tyro.cli(CONFIGS[module], args=words[words.index(module) + 1 :])
        assert (config.model, config.run_dir and config.run_dir.name, config.resume) == ("smollm2", name, True)
        assert seconds < (seconds := int(words[3])) <= 480
    assert (ended.status, ended.err) == (0, "")
    assert not (card.checkout / "out").exists()


def test_what_was_cut_off_and_what_failed_is_said(card: Desk) -> None:
    (card.path / "token").write_text("exit 143")
    ended = card.run(SCRIPT, "out")
    assert (ended.status, ended.err.splitlines()[-1]) == (75, f"{SCRIPT}: not done: token; the same command goes on")
    (card.path / "gsm8k_sequence").write_text("echo why >&2; exit 2")
    ended = card.run(SCRIPT, "out")
    assert ended.status == 1
    assert ended.err.splitlines()[-1].startswith(f"{SCRIPT}: error: failed: gsm8k_sequence; see their logs in ")
    assert (card.path / "ran").read_text().split() == PARTS * 2  # nothing keeps the others from running
    assert (card.checkout / "out" / "gsm8k_sequence.log").read_text() == "done\nwhy\n"


def test_a_part_is_told_to_end_in_time(card: Desk) -> None:
    card.variables["MINUTES"] = "1"
    (card.path / "sequence").write_text("trap 'exit 130' TERM; sleep 60 & wait")
    ended = card.run(SCRIPT, "out")
    assert (ended.status, ended.err.splitlines()[-1]) == (75, f"{SCRIPT}: not done: sequence; the same command goes on")
    assert (card.path / "ran").read_text().split() == PARTS


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_end_it_ends_its_part_first(card: Desk, number: int, status: int) -> None:
    (card.path / "sequence").write_text(
        'trap \'sleep 0.2; touch "$DESK/saved"; exit 143\' TERM; touch "$DESK/begun"; sleep 60 & wait'
    )
    script = card.start(SCRIPT, "out")
    while not (card.path / "begun").exists():
        assert script.poll() is None
        time.sleep(0.01)
    script.send_signal(number)
    ended = card.end(script)
    assert (ended.status, ended.err.splitlines()[-1]) == (status, f"{SCRIPT}: stopped; the same command goes on")
    assert (card.path / "saved").exists()
    assert (card.path / "ran").read_text().split() == PARTS[:1]


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ([], {}, "give a directory for the runs"),
        (["--large", "out"], {}, "unknown option '--large'"),
        (["out"], {"MINUTES": "soon"}, "MINUTES is soon: give a whole number"),
        (["out"], {"DATA": "/nowhere"}, "DATA is /nowhere, and there is no gsm8k_train.jsonl in it"),
    ],
)
def test_what_is_missing_is_named(card: Desk, words: list[str], variables: dict[str, str], message: str) -> None:
    card.variables |= variables
    ended = card.run(SCRIPT, *words)
    assert ended.status == 2
    assert message in ended.err
