import json
import logging
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adaptive_jax.tasks.loading import HUB, as_problem, load_problems
from adaptive_jax.tasks.problem import Case, Problem, normalise_question, shared

SVAMP = {"ID": "chal-1", "Body": "Dan has 5 pens", "Question": "How many are left?", "Answer": 5.0, "Equation": "5"}
MATH = {"problem": "Q", "level": "Level 1", "type": "Algebra", "solution": r"so $\boxed{\frac{1}{2}}$."}
GSM8K = {"question": "Q", "answer": "4*2=<<4*2=8>>8\n#### 1,008"}
AIME = {"id": "2025-I-1", "problem": "Q", "answer": "70", "solution": "long", "url": "...", "year": 2025}
PUBLISHED = {  # CodeContests as on the hub
    "name": "p1",
    "description": "Double it.",
    "public_tests": {"input": ["2"], "output": ["4"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["3", "4"], "output": ["6", "8"]},
    "source": 2,
    "difficulty": 7,
    "solutions": {"language": [3, 2], "solution": ["print(int(input()) * 2)", "int main() {}"]},
    "incorrect_solutions": {"language": [3], "solution": ["print(4)"]},
    "time_limit": {"seconds": 2, "nanos": 0},
    "input_file": "",
}
IFEVAL = {"key": 7, "prompt": "Say hi.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
DOUBLE = Problem("p1", "Double it.", "", "code", tests=(Case("2", "4"), Case("3", "6"), Case("4", "8")))
CONTEST = {"id": "a", "description": "Double it.", "solution": "...", "tests": [{"input": "2", "output": "4"}]}


def write_jsonl(folder: Path, *rows: object, name: str = "problems.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": 7, "problem": "1+1?", "answer": 2}, Problem("7", "1+1?", "2")),
        ({"id": "x", "question": " 1+1? ", "answer": "2.5"}, Problem("x", "1+1?", "2.5")),
        ({"id": "g", "question": "Q", "answer": "4*2=<<4*2=8>>8\n#### 1,008"}, Problem("g", "Q", "1,008", hash_answer=True)),
        ({"unique_id": "m", "problem": "Q", "solution": r"so \boxed{\frac{1}{2}}"}, Problem("m", "Q", r"\frac{1}{2}")),
        ({"id": "m", "problem": "Q", "solution": r"\boxed{1}", "answer": "one"}, Problem("m", "Q", "one")),
        ({"id": "m", "problem": "Q", "solution": r"it is \boxed 3$."}, Problem("m", "Q", "3")),
        ({"id": "m", "problem": "Q", "solution": r"it is \fbox{B}"}, Problem("m", "Q", "B")),
        (SVAMP, Problem("chal-1", "Dan has 5 pens, How many are left?", "5")),
        (SVAMP | {"Body": "He goes.", "Answer": "2.5"}, Problem("chal-1", "He goes. How many are left?", "2.5")),
        (CONTEST, Problem("a", "Double it.", "", "code", tests=(Case("2", "4"),))),
        (PUBLISHED, DOUBLE),
        (PUBLISHED | {"private_tests": None, "public_tests": [{"input": "2", "output": "4"}]}, DOUBLE),
        (AIME, Problem("2025-I-1", "Q", "70")),
        (AIME | {"id": 0, "answer": 70}, Problem("0", "Q", "70")),
        (MATH | {"id": "m", "answer": None}, Problem("m", "Q", r"\frac{1}{2}")),
        ({"id": "t", "question": "Q", "answer": 0.25, "tests": None, "Body": None}, Problem("t", "Q", "0.25")),
    ],
)
def test_reads_every_source_in_its_own_fields(tmp_path: Path, row: dict, expected: Problem) -> None:
    assert load_problems(write_jsonl(tmp_path, row)) == [expected]


def test_json_and_parquet_give_what_jsonl_gives(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(3)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = load_problems(write_jsonl(tmp_path, *rows))
    assert [problem.answer for problem in expected] == ["1", "2", "3"]
    assert load_problems(tmp_path / "p.json") == load_problems(tmp_path / "p.parquet") == expected


def test_ids_are_stable_and_differ_within_a_file(tmp_path: Path) -> None:
    rows = [{"question": text, "answer": "1"} for text in ("What is  it?", "Other", "what is it?")]
    first, other, repeat = load_problems(write_jsonl(tmp_path, *rows))
    assert repeat.id == f"{first.id}-2"
    # an id depends on the text alone, not on its place
    assert load_problems(write_jsonl(tmp_path, *rows[1:]))[0].id == other.id
    assert normalise_question("What  is\nIT? ") == "what is it?"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "a list, where an object"),
        ({"question": "Q"}, "no field 'answer'; it has 'question'"),
        ({"text": "Q", "answer": "1"}, "no field 'problem' or 'question'"),
        ({"question": 5, "answer": "1"}, "'question' is a int; write it as a string"),
        ({"question": "  ", "answer": "1"}, "'question' is blank"),
        ({"question": "Q", "answer": None}, "no field 'answer'; it has 'question'"),
        ({"question": "Q", "answer": [1, 2]}, "'answer' is a list; write it as a string"),
        ({"question": "Q", "answer": float("nan")}, "'answer' is nan; give a finite number"),
        (SVAMP | {"Answer": float("inf")}, "'Answer' is inf; give a finite number"),
        ({"question": "Q", "answer": True}, "'answer' is a bool"),
        ({"question": "Q", "answer": "so 5\n#### "}, "ends in '####'"),
        ({"problem": "Q", "solution": "no box"}, r"no \boxed{}"),
        (SVAMP | {"Answer": "five"}, "SVAMP answers are numbers"),
        (CONTEST | {"tests": []}, "no test expects any output"),
        (CONTEST | {"tests": [{"input": "2", "output": " \n"}]}, "no test expects any output"),
        (CONTEST | {"tests": [{"input": "2"}]}, "field 'tests' is not [{"),
        (CONTEST | {"tests": [{"input": "2", "output": 4}]}, "field 'tests' is not [{"),
        (CONTEST | {"tests": 5}, "field 'tests' is not [{"),
        (PUBLISHED | {"public_tests": {"input": ["2", "3"], "output": ["4"]}}, "field 'public_tests' is not [{"),
        (PUBLISHED | {"description": None}, "no field 'description' or"),
        ({"id": "good", "question": "again", "answer": "1"}, "id 'good' is taken"),
    ],
)
def test_a_malformed_row_is_named_or_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: object, message: str
) -> None:
    path = write_jsonl(tmp_path, {"id": "good", "question": "Q", "answer": "1"}, "", row, {"question": "R", "answer": "2"})
    with pytest.raises(ValueError, match="line 3: ") as fault:
        load_problems(path)
    assert str(path) in str(fault.value)
    assert message in str(fault.value)
    with caplog.at_level(logging.WARNING):
        assert [problem.question for problem in load_problems(path, skip_bad=True)] == ["Q", "R"]
    assert "left out 1 malformed row" in caplog.text


def test_bytes_that_are_no_text_are_a_malformed_row(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "Q", "answer": "1"}\n{"question": "\xff", "answer": "1"}\n')
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        load_problems(path)
    assert len(load_problems(path, skip_bad=True)) == 1


def test_limit_counts_good_problems_and_stops_reading(tmp_path: Path) -> None:
    rows = ["broken", *({"question": str(n), "answer": "1"} for n in range(3)), "broken"]
    path = write_jsonl(tmp_path, *rows)
    assert [problem.question for problem in load_problems(path, limit=2, skip_bad=True)] == ["0", "1"]
    with pytest.raises(ValueError, match="limit is 0"):
        load_problems(path, limit=0)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("gone.jsonl", None, FileNotFoundError, "no such file"),
        ("empty.jsonl", "", ValueError, "holds no problem"),
        ("broken.json", "{", ValueError, "not JSON"),
        ("one.json", "{}", ValueError, "a list of objects"),
        ("broken.parquet", "PAR?", ValueError, "not a readable parquet"),
        ("problems.csv", "a,b", ValueError, "unknown data set"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(
    tmp_path: Path, name: str, content: str | None, error: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message) as fault:
        load_problems(tmp_path / name)
    assert name in str(fault.value)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_malformed_rows_of_tables_are_named_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": f"Q{n}", "answer": answer} for n, answer in enumerate(("1", None, "  ", "4"))]
    path = tmp_path / f"p{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(ValueError, match=r"p\.(json|parquet), row 2: no field 'answer'.*--skip-bad"):
        load_problems(path)
    with caplog.at_level(logging.WARNING):
        assert [problem.answer for problem in load_problems(path, skip_bad=True)] == ["1", "4"]
    assert "left out 2 malformed rows" in caplog.text


ON_THE_HUB = {
    "math": (MATH, Problem("", "Q", r"\frac{1}{2}")),
    "math500": (MATH | {"answer": "7", "unique_id": "test/1.json"}, Problem("test/1.json", "Q", "7")),
    "gsm8k": (GSM8K, Problem("", "Q", "1,008", hash_answer=True)),
    "svamp": (SVAMP | {"Answer": "5.0"}, Problem("chal-1", "Dan has 5 pens, How many are left?", "5")),
    "aime2025": (AIME, Problem("2025-I-1", "Q", "70")),
    "ifeval": (IFEVAL, Problem("7", "Say hi.", "", "instructions")),
    "code_contests": (PUBLISHED, DOUBLE),
}


@pytest.mark.parametrize("name", HUB)
def test_known_names_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = []
    row, expected = ON_THE_HUB[name]

    def load_dataset(*arguments: object, split: str, streaming: bool = False) -> Iterator[dict]:
        calls.append((*arguments, split, streaming))
        return iter([row, {"nothing": "known"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    (problem,) = load_problems(name, skip_bad=True)
    assert problem == replace(expected, id=expected.id or problem.id)
    part = "train" if name == "ifeval" else "test"  # one piece, which is for evaluation
    assert calls == [(*HUB[name][:2], part, name == "code_contests")]
    with pytest.raises(ValueError, match=rf"{name} \(.*\), {part} row 2: no field"):
        load_problems(name)
    with pytest.raises(ValueError, match=rf"no split 'dev', only .*{part}"):
        load_problems(name, split="dev")


def test_a_hub_out_of_reach_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, split: str) -> list[dict]:
        raise OSError(f"no route for {split}")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(ConnectionError, match=r"gsm8k.*no route for test.*give a local file"):
        load_problems("gsm8k")


def test_a_stream_is_read_no_further_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, split: str, streaming: bool) -> Iterator[dict]:
        yield from (PUBLISHED | {"name": name} for name in "ab")
        raise OSError(f"the connection broke in {split}")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert [problem.id for problem in load_problems("code_contests", limit=2)] == ["a", "b"]
    with pytest.raises(ConnectionError, match="the connection broke in test"):
        load_problems("code_contests")


@pytest.mark.parametrize(
    "limit", [0, -1.0, True, "2", {"seconds": 0, "nanos": 0}, {"seconds": "2"}, float("inf"), float("nan"), [2]]
)
def test_a_time_limit_that_is_none_is_refused(tmp_path: Path, limit: object) -> None:
    with pytest.raises(ValueError, match=r"line 1: field 'time_limit' is .*; give seconds above 0"):
        load_problems(write_jsonl(tmp_path, CONTEST | {"time_limit": limit}))


def test_shared_finds_the_same_question_in_other_clothes() -> None:
    train = [Problem("1", "How  many\nApples?", "1"), Problem("2", "How many pears?", "2")]
    test = [Problem("9", "how many apples?", "1")]
    assert shared(train, test) == train[:1]
    assert shared(train[1:], test) == []


@pytest.mark.parametrize("name", ["arithmetic", "instructions", "programs"])
def test_embedded_train_and_test_share_no_problem(name: str) -> None:
    train, test = load_problems(name, split="train"), load_problems(name, split="test")
    assert shared(train, test) == []
    assert not {problem.id for problem in train} & {problem.id for problem in test}
    assert load_problems(name, split="test", limit=3) == test[:3]


def test_a_parquet_file_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "problems.parquet"
    rows = [{"question": f"What is {n} + {n}? " * 20, "answer": str(2 * n)} for n in range(500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[200:1200] = b"\xff" * 1000
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"problems.parquet: not a readable parquet file"):
        load_problems(path)


def test_every_further_field_of_a_row_is_metadata() -> None:
    row = {"id": 7, "question": "How many? ", "answer": "Two and two.\n#### 4", "level": 3, "final": "4", "note": None}
    assert as_problem(row).metadata == {"answer": "Two and two.\n#### 4", "level": 3, "final": "4"}
    assert as_problem({"problem": "2 + 2?", "solution": "It is \\boxed{4}.", "type": "Algebra"}).metadata == {
        "solution": "It is \\boxed{4}.",
        "type": "Algebra",
    }
    tests = {"input": ["1"], "output": ["2"]}
    assert as_problem({"name": "a", "description": "Add.", "public_tests": tests, "difficulty": 9}).metadata == {
        "difficulty": 9
    }
