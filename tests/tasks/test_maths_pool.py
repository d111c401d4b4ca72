import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptive_jax.tasks import maths_pool
from adaptive_jax.tasks.grading import grade_many
from adaptive_jax.tasks.maths_pool import MathsPool
from adaptive_jax.tasks.problem import Problem, Verdict
from adaptive_jax.tasks.workers import KILLED_STARTS
from tests.tasks.processes import LIGHT_PACKAGE, alive, children, wait_until

TOWER = "10^{10^{10}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[MathsPool]:
    pool = MathsPool(size=2, seconds=1)
    yield pool
    pool.close()
    assert workers_of(os.getpid()) == []


def workers_of(parent: int) -> list[int]:
    return children("maths_worker.py", parent)


def test_equal_answers_are_equal_however_written(pool: MathsPool) -> None:
    pairs = [
        ("18+10i", "10i+18"),
        ("n = 255", "255"),
        ("5", "x=5"),
        ("4", r"\sqrt{16}"),
        ("1000", "10^3"),
        (r"\frac{3}{\pi}", r"3\pi^{-1}"),
        (r"2 \sqrt{6} - 2 \sqrt{3}", r"-2\sqrt{3}+2\sqrt{6}"),
        ("2x^2 - 2", "2(x-1)(x+1)"),
        (r"\begin{pmatrix} 7 \\ 5 \end{pmatrix}", r"\begin{bmatrix}7\\5\end{bmatrix}"),
        (r"\{1,2\}", r"\{2,1\}"),
        (r"(-\infty,-\frac{4}{3}) \cup (-\frac{4}{3},\infty)", r"(-\infty,-4/3)\cup(-4/3,\infty)"),
        (r"\log_{2} 8", "3"),
        ("3", r"\log_{2} 8"),
        ("3:5", r"\frac{3}{5}"),
    ]
    assert dict(zip(pairs, pool.verdicts(pairs), strict=True)) == dict.fromkeys(pairs, "correct")


def test_different_answers_are_different(pool: MathsPool) -> None:
    pairs = [
        ("18+10i", "10+18i"),
        ("(1,4)", "(4,1)"),
        ("(1,4)", "(1,4]"),
        ("[0,1)", "[0,1]"),
        (r"\{1,2\}", r"\{1,3\}"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        (r"\begin{pmatrix} 7 \\ 5 \end{pmatrix}", r"\begin{pmatrix} 5 \\ 7 \end{pmatrix}"),
        ("5", "5,6"),
        ("5", r"5 \text{ or } 6"),
        ("5", r"4 < x < 6"),
        ("5", r"\infty"),
        ("5", r"\frac{0}{0}"),
        ("x=5", "0=0"),
        ("x", "y"),
        (r"\pi", "3.14"),
        (r"\sqrt{2}", "1.41421356"),
        ("x>5", "5"),
        ("2x=4", "4"),
    ]
    assert dict(zip(pairs, pool.verdicts(pairs), strict=True)) == dict.fromkeys(pairs, "wrong")


@pytest.mark.parametrize("gold", ["7", r"\frac{1}{3}", r"\text{east}", "(0, 1)", r"\begin{pmatrix} 1 & 0 \end{pmatrix}"])
def test_garbage_is_never_right(pool: MathsPool, gold: str) -> None:
    garbage = ["4\0002", "\ud800", r"\\", "}{", "^", r"\frac{1", "$$", r"\left(", "()" * 400, r"\end{pmatrix}"]
    assert set(pool.verdicts([(gold, answer) for answer in garbage])) <= {"unparseable", "wrong", "timeout"}


def test_text_is_never_run_as_code(pool: MathsPool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    orders = [
        f"__import__('os').system('touch {mark}')",
        f"open('{mark}', 'w')",
        rf"\text{{__import__('os').system('touch {mark}')}}",
        f"lambda: open('{mark}', 'w')",
        rf"\write18{{touch {mark}}}",
    ]
    assert "correct" not in pool.verdicts([("5", order) for order in orders])
    assert not mark.exists()


def test_poison_times_out_and_spares_the_rest(pool: MathsPool) -> None:
    pairs = [("5", TOWER), ("5", "9^{9^9}"), *((str(n), f"x={n}") for n in range(10))]
    assert pool.verdicts(pairs) == ["timeout"] * 2 + ["correct"] * 10


def test_verdicts_do_not_depend_on_workers_or_order(pool: MathsPool) -> None:
    pairs = [("5", TOWER), ("5", "x=5"), ("5", "x=6"), (r"\{1,2\}", r"\{2,1\}"), ("5", r"\frac{1"), ("4", r"\sqrt{16}")]
    expected: list[Verdict] = ["timeout", "correct", "wrong", "correct", "unparseable", "correct"]
    assert pool.verdicts(pairs) == expected
    alone = MathsPool(size=1, seconds=1)
    assert alone.verdicts(pairs[::-1]) == expected[::-1]
    alone.close()


def test_workers_have_little_memory_and_no_jax(pool: MathsPool) -> None:
    pool.verdicts([("1", "x=1")])
    assert workers_of(os.getpid())
    for worker in workers_of(os.getpid()):
        assert resource.prlimit(worker, resource.RLIMIT_AS) == (maths_pool.MEGABYTES << 20,) * 2
        assert "jaxlib" not in Path(f"/proc/{worker}/maps").read_text()


FAKE_WORKER = """# stands in for maths_worker.py
import json, os, pathlib, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    gold, answer = json.loads(line)
    if answer == "dies" or answer == "dies once" and not pathlib.Path(gold).exists():
        pathlib.Path(gold).touch()
        os.kill(os.getpid(), 9)
    if answer == "hangs":
        time.sleep(1000)
    print('"correct"', flush=True)
"""


@pytest.mark.parametrize("size", [1, 3])
def test_a_death_at_work_is_an_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    pool = MathsPool(size)
    monkeypatch.setattr(pool, "_command", [sys.executable, "-c", FAKE_WORKER])
    mark = str(tmp_path / "died")
    pairs = [(mark, answer) for answer in ("fine", "dies", "fine", "fine")]
    assert pool.verdicts(pairs) == ["correct", "error", "correct", "correct"]
    Path(mark).unlink()
    assert pool.verdicts([(mark, "dies once"), (mark, "fine")]) == ["correct", "correct"]
    pool.close()


def test_a_worker_that_dies_idle_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = MathsPool(2)
    monkeypatch.setattr(pool, "_command", [sys.executable, "-c", FAKE_WORKER])
    before = set(workers_of(os.getpid()))
    for _ in range(3):
        assert pool.verdicts([("", "fine")] * 4) == ["correct"] * 4
        killed = set(workers_of(os.getpid())) - before
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda killed=killed: not killed & set(workers_of(os.getpid())))
    pool.close()
    assert set(workers_of(os.getpid())) == before


MORTAL_WORKER = """# every other one dies as it starts, and request n kills the first n % 3 that get it
import json, os, sys
folder, born = sys.argv[1], 0
while True:
    try:
        open(f'{folder}/born-{born}', 'x').close()
        break
    except FileExistsError:
        born += 1
if born % 2:
    os.kill(os.getpid(), 9)
print('"ready"', flush=True)
for line in sys.stdin:
    n, verdict = json.loads(line)
    with open(f'{folder}/{n}', 'a') as deaths:
        if deaths.tell() < int(n) % 3:
            deaths.write('x')
            deaths.flush()
            os.kill(os.getpid(), 9)
    print(json.dumps(verdict), flush=True)
"""


@pytest.mark.parametrize("size", [1, 3])
def test_deaths_all_the_time_change_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """More of them, at work and at start, than any limit on deaths in a row allows for a whole batch."""
    pool = MathsPool(size)
    monkeypatch.setattr(pool, "_command", [sys.executable, "-S", "-c", MORTAL_WORKER, str(tmp_path)])
    expected: list[Verdict] = ["correct" if n % 5 else "wrong" for n in range(30)]
    assert pool.verdicts([(str(n), verdict) for n, verdict in enumerate(expected)]) == expected
    assert sum((tmp_path / str(n)).stat().st_size for n in range(30)) == 30
    assert len(list(tmp_path.glob("born-*"))) > 2 * KILLED_STARTS
    pool.close()


def test_workers_killed_as_they_start_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = MathsPool(2)
    born = f"import os, pathlib\npathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
    born += f"if len(os.listdir({str(tmp_path)!r})) <= 6: os.kill(os.getpid(), 9)\n"
    monkeypatch.setattr(pool, "_command", [sys.executable, "-c", born + FAKE_WORKER])
    assert pool.verdicts([("", "fine")] * 10) == ["correct"] * 10
    pool.close()


def test_a_worker_that_sleeps_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = MathsPool(2)
    monkeypatch.setattr(pool, "_command", [sys.executable, "-c", FAKE_WORKER])
    assert pool.verdicts([("", "fine"), ("", "fine")]) == ["correct", "correct"]
    monkeypatch.setattr(pool, "_patience", 2.0)
    assert pool.verdicts([("", "hangs"), ("", "fine")]) == ["timeout", "correct"]
    pool.close()


@pytest.mark.parametrize("worker", ["print('\"ModuleNotFoundError: sympy\"')", "", "print('gar')", "1/0"])
def test_a_pool_that_cannot_start_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, worker: str
) -> None:
    pool = MathsPool(2)
    monkeypatch.setattr(pool, "_command", [sys.executable, "-c", worker])
    assert pool.verdicts([("5", "x=5"), ("5", "x=6")]) == ["error", "error"]
    assert "did not start" in caplog.text
    pool.close()


def test_grading_asks_the_pool_once_for_equal_answers(pool: MathsPool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Spy:
        def verdicts(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
            asked.extend(pairs)
            return pool.verdicts(pairs)

    monkeypatch.setattr(maths_pool, "shared_pool", Spy)
    problem = Problem("p", "Q", "2x^2 - 2")
    texts = [r"\boxed{2(x^2-1)}", r"\boxed{x}", r"\boxed{2x^2-2}", r"\boxed{2(x^2-1)}", ""]
    assert grade_many([problem] * 5, texts) == ["correct", "wrong", "correct", "correct", "wrong"]
    assert asked == [("2x^{2} - 2", "2(x^{2}-1)"), ("2x^{2} - 2", "x")]


def test_no_worker_outlives_its_parent() -> None:
    order = f"""{LIGHT_PACKAGE}
from adaptive_jax.tasks.maths_pool import shared_pool
print(shared_pool().verdicts([("5", "x=5")]), flush=True)
shared_pool().verdicts([("5", "{TOWER}"), ("5", "9^{{9^9}}")])
"""
    with subprocess.Popen([sys.executable, "-c", order], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "['correct']\n"
        workers = workers_of(parent.pid)
        assert workers
        parent.kill()
    wait_until(lambda: not any(map(alive, workers)))
