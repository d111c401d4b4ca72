import ast
import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from adaptive_jax.tasks import code, programs, sandbox
from adaptive_jax.tasks.code import extract_program, judge_many, same_output
from adaptive_jax.tasks.grading import grade, grade_many
from adaptive_jax.tasks.problem import Case, Problem, Verdict
from adaptive_jax.tasks.sandbox import Limits, Outcome, SandboxUnavailable, Tier, tiers

HELD = [tier for tier, complaint in tiers().items() if not complaint]
DOUBLE = Problem("double", "Double it.", "", "code", tests=(Case("2\n", "4\n"), Case("-7\n", "-14\n")))


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    """No verdict of another test is remembered."""
    code._known.clear()


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("print(1)", "print(1)"),
        ("Sure!\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```python\nfirst\n```\n```py\nsecond\n```\n```\n42\n```", "second\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("```output\n1\n```\n```Python3\nx\n```\n```text\ny\n```", "x\n"),
        ("- so:\n  ```python\n  print(1)\n  ```", "  print(1)\n"),
        ("```python\nprint(1)\nprint(", "print(1)\nprint("),
        ("<think>```python\nwrong\n```</think>```python\nright\n```", "right\n"),
        ("<think>```python\nwrong\n```", None),
        ("", None),
        ("```python\n\n```", None),
        ("x" * (code.LONGEST_PROGRAM + 1), None),
    ],
)
def test_the_program_is_the_last_python_block(text: str, program: str | None) -> None:
    assert extract_program(text) == program


@pytest.mark.parametrize(
    ("written", "expected", "same"),
    [
        (b"1 2\n3", "1\n2 3\n\n", True),
        (b"YES", "yes", True),
        (b"1.000001", "1", True),
        (b"1.00002", "1", False),
        (b"0.99998", "1.0", False),
        (b"1e-6", "0", True),
        (b"007", "7", True),
        (b"+7", "7", True),
        (b"-0", "0", True),
        (b"7", "-7", False),
        (b"10000000000000001", "10000000000000000", False),
        (b"1" + b"0" * 5000, "1" + "0" * 5000, True),
        (b"nan", "1", False),
        (b"nan", "0.5", False),
        (b"inf", "1e9999", False),
        (b"1_0", "10", False),
        ("\u0661".encode(), "1", False),
        (b"1", "1 1", False),
        (b"1 1", "1", False),
        (b"", "1", False),
        (b"\xff\xfe", "\ufffd", False),
        (b"4\x00", "4", False),
        ("é".encode(), "é", True),
    ],
)
def test_outputs_are_compared_by_the_rule_of_codecontests(written: bytes, expected: str, same: bool) -> None:
    assert same_output(written, expected) is same


def test_whatever_a_program_prints_is_compared_in_linear_time() -> None:
    """In quadratic time one of these would take a day."""
    flood = 1 << 22
    assert not same_output(b"0" * flood + b"x", "1")
    assert not same_output(b"1" * flood + b"e", "1")
    assert not same_output(b"." * flood, "0.5")
    assert not same_output(b"1 " * flood, "1 1")
    assert same_output(b"1" + b" \n" * flood, "1")
    assert same_output(b"-" + b"0" * flood + b"7", "-7")


def test_without_a_sandbox_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "tiers", lambda: {"bubblewrap": "missing", "landlock": "missing"})
    with pytest.raises(SandboxUnavailable):
        grade(DOUBLE, "print(int(input()) * 2)")
    assert grade_many([DOUBLE], ["print(int(input()) * 2)"], allow_unsandboxed=True) == ["correct"]


@pytest.mark.parametrize(("status", "verdict"), [("fault", "error"), ("timeout", "timeout"), ("failed", "wrong")])
def test_outcomes_become_verdicts(monkeypatch: pytest.MonkeyPatch, status: str, verdict: Verdict) -> None:
    def run(program: str, stdin: bytes, tier: Tier, limits: Limits) -> Outcome:
        # even with the right output, a program that did not end well has not passed
        return Outcome(status, str(2 * int(stdin)).encode(), "reason")  # type: ignore[arg-type]

    monkeypatch.setattr(code, "choose_tier", lambda allow_unsandboxed: "landlock")
    monkeypatch.setattr(code, "run", run)
    assert grade(DOUBLE, "...") == verdict


@pytest.mark.parametrize(
    ("own", "seconds"),
    [({"seconds": 1, "nanos": 500_000_000}, 8), ({"seconds": 2, "nanos": 0}, 10), (0.1, 1), (4, 20), (None, 3)],
)
def test_a_problems_own_time_limit_counts(own: object, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as long, in whole seconds rounded up; without one, the limit that is given."""
    given = []

    def run(program: str, stdin: bytes, tier: Tier, limits: Limits) -> Outcome:
        given.append(limits)
        return Outcome("timeout", b"")

    monkeypatch.setattr(code, "choose_tier", lambda allow_unsandboxed: "landlock")
    monkeypatch.setattr(code, "run", run)
    problem = replace(DOUBLE, metadata={} if own is None else {"time_limit": own})
    assert judge_many([(problem, "...")], limits=Limits(seconds=3, megabytes=64)) == ["timeout"]
    assert given == [Limits(seconds=seconds, megabytes=64)]


needs_sandbox = pytest.mark.skipif(not HELD, reason=f"no sandbox on this machine: {tiers()}")


@needs_sandbox
def test_verdicts_do_not_depend_on_workers_or_order() -> None:
    texts = [
        "```python\nprint(int(input()) * 2)\n```",
        "print(abs(int(input())) * 2)",  # passes the first test only
        "while True: pass",
        "I cannot do this.",
        "",
        "print(int(input()) * 2)",
        "import os\nprint(int(input()) * 2, flush=True)\nos._exit(1)",
    ]
    expected = ["correct", "wrong", "timeout", "wrong", "unparseable", "correct", "wrong"]
    jobs = [(DOUBLE, text) for text in texts]
    limits = Limits(seconds=1)
    assert judge_many(jobs, workers=1, limits=limits) == expected
    assert judge_many(jobs[::-1], workers=3, limits=limits) == expected[::-1]


@needs_sandbox
def test_code_and_maths_are_graded_side_by_side() -> None:
    maths = Problem("m", "Q", "4")
    problems, texts = [maths, DOUBLE, maths], [r"\boxed{4}", "print(int(input()) * 2)", r"\boxed{5}"]
    assert grade_many(problems, texts) == ["correct", "correct", "wrong"]


def test_equal_programs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(program: str, stdin: bytes, tier: Tier, limits: Limits) -> Outcome:
        seen.append(program)
        return Outcome("failed", b"")

    monkeypatch.setattr(code, "choose_tier", lambda allow_unsandboxed: "landlock")
    monkeypatch.setattr(code, "run", run)
    assert grade_many([DOUBLE] * 3, ["a", "b", "a"]) == ["wrong"] * 3
    assert sorted(seen) == ["a", "b"]
    assert grade_many([DOUBLE] * 2, ["b", "c"]) == ["wrong"] * 2  # what an earlier call found is known
    assert sorted(seen) == ["a", "b", "c"]


def test_a_program_that_ran_out_of_time_is_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([Outcome("timeout", b""), Outcome("failed", b"")])
    monkeypatch.setattr(code, "choose_tier", lambda allow_unsandboxed: "landlock")
    monkeypatch.setattr(code, "run", lambda program, stdin, tier, limits: next(outcomes))
    assert grade_many([DOUBLE], ["a"]) == ["timeout"]
    assert grade_many([DOUBLE], ["a"]) == ["wrong"]


# The embedded problems


def embedded() -> list[Problem]:
    return programs.problems("train") + programs.problems("test")


def test_every_embedded_solution_prints_what_is_expected() -> None:
    solutions = {
        problem.id: problem.metadata["solution"] for split in ("train", "test") for problem in programs.problems(split)
    }
    assert len(solutions) == len(embedded()) == 74
    for problem in embedded():
        assert outputs(solutions[problem.id], problem) == [case.output.split() for case in problem.tests], problem.id


@needs_sandbox
def test_solutions_pass_and_their_mutants_fail() -> None:
    solutions = {
        problem.id: problem.metadata["solution"] for split in ("train", "test") for problem in programs.problems(split)
    }
    jobs = [(problem, solutions[problem.id]) for problem in embedded()[::3]]  # a third: each test is a process
    mutants = [(problem, mutant) for problem, solution in jobs if (mutant := changed(problem, solution))]
    assert len(mutants) >= 20
    verdicts = judge_many(jobs + mutants, limits=Limits(seconds=2))
    assert {job for job, verdict in zip(jobs, verdicts, strict=False) if verdict != "correct"} == set()
    assert {job for job, verdict in zip(mutants, verdicts[len(jobs) :], strict=True) if verdict == "correct"} == set()


def test_a_program_that_ignores_its_input_solves_no_embedded_problem() -> None:
    for problem in embedded():
        assert len({case.output for case in problem.tests}) > 1, problem.id


def changed(problem: Problem, solution: str) -> str | None:
    """The first mutant of a solution, one constant or operator changed, that prints something else on some test."""
    return next((mutant for mutant in mutants_of(solution) if outputs(mutant, problem) != outputs(solution, problem)), None)


def mutants_of(solution: str) -> Iterator[str]:
    swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv}
    swaps |= {ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.Gt: ast.GtE, ast.Div: ast.Mult, ast.Pow: ast.Mult}
    for place, node in enumerate(ast.walk(ast.parse(solution))):
        tree = ast.parse(solution)
        twin = list(ast.walk(tree))[place]
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            twin.value = node.value + 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            twin.value = node.value + "x"
        elif isinstance(node, ast.BinOp) and type(node.op) in swaps:
            twin.op = swaps[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in swaps:
            twin.ops = [swaps[type(node.ops[0])]()]
        elif isinstance(node, ast.Name) and node.id in (names := {"max": "min", "min": "max", "sum": "len", "len": "id"}):
            twin.id = names[node.id]
        else:
            continue
        yield ast.unparse(tree)


def outputs(program: str, problem: Problem) -> list[list[str]]:
    """What a program of ours prints on each test, run in this process."""
    found = []
    for case in problem.tests:
        written = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(written):
            patch.setattr(sys, "stdin", io.StringIO(case.input))
            try:
                exec(compile(program, "<mutant>", "exec"), {})
            except Exception as fault:
                written.write(type(fault).__name__)
        found.append(written.getvalue().split())
    return found
