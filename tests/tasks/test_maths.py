import pytest

from adaptive_jax.tasks import maths_pool
from adaptive_jax.tasks.grading import grade, grade_many
from adaptive_jax.tasks.maths import final_answer, last_box, quick_verdict
from adaptive_jax.tasks.problem import Problem, Verdict


@pytest.fixture
def _no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may need a worker process."""

    def shared_pool() -> None:
        raise RuntimeError("the pool was asked for")

    monkeypatch.setattr(maths_pool, "shared_pool", shared_pool)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{2} ... no, \boxed{3}.", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {4}", "4"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think> I forgot", None),
        (r"\boxed{1} <think> wait, \boxed{2}", "1"),
        (r"<think> \boxed{1}", None),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{1}}}", "1"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"boxed{5}", None),
        ("5", None),
        ("#### 5", None),
        ("", None),
        (r"\boxed{" + "1" * 1001 + "}", None),
        (r"\boxed{" + "{" * 100_000, None),
        (r"\boxed{" * 20_000, None),
        ("{" * 100_000 + r"\boxed{7}" + "}" * 100_000, "7"),
    ],
)
def test_the_answer_is_the_last_box_behind_the_thoughts(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 5\n", "5"),
        ("#### 4 \nno\n####5", "5"),
        (r"#### 4 \boxed{5}", "5"),
        (r"#### 4 \boxed{5", None),
        ("####\n5", None),
        ("<think>#### 5</think>", None),
    ],
)
def test_hashes_count_where_the_source_uses_them(text: str, answer: str | None) -> None:
    assert final_answer(text, hash_answer=True) == answer


def test_a_box_of_a_hundred_kilobytes_is_found_in_linear_time() -> None:
    body = "{}" * 50_000
    assert last_box(rf"\boxed{{{body}}}") == body


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("42", "42", "correct"),
        ("42", " +42. ", "correct"),
        ("42", "042", "correct"),
        ("42", "24", "wrong"),
        ("-5", "\u22125", "correct"),
        ("-5", "5", "wrong"),
        ("1234", "1,234", "correct"),
        (r"21,\!000", "21000", "correct"),
        ("10000", r"10{,}000", "correct"),
        ("18", "18.00", "correct"),
        ("18", "18.01", "wrong"),
        (r"\frac{1}{2}", r"\dfrac12", "correct"),
        (r"\frac{1}{2}", "0.5", "correct"),
        (r"\frac{1}{2}", "1/2", "correct"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}", "correct"),
        (r"\frac{1}{2}", r"\frac{1}{3}", "wrong"),
        (r"\frac{1}{2}", r"\frac{2}{4}", "correct"),
        ("1", r"\frac{1}{0}", None),
        ("50", r"50\%", "correct"),
        ("0.5", r"50\%", "correct"),
        (r"50\%", "0.5", "correct"),
        (r"50\%", "5000", "wrong"),
        (r"\$30", "30", "correct"),
        (r"67^\circ", "67", "correct"),
        (r"10\text{ cm}", "10", "correct"),
        ("10", r"10 \text{ cm}", "correct"),
        (r"10\text{ cm}", r"10\,\mathrm{cm}", "correct"),
        (r"10\text{ cm}", r"10\text{ m}", "wrong"),
        (r"10\text{ cm}^2", r"10\text{ cm}^3", "wrong"),
        (r"10\text{ cm}", r"11\text{ cm}", "wrong"),
        (r"2\mathrm{i}", "2", None),
        (r"\text{Evelyn}", "evelyn", "correct"),
        ("Paris", r"\text{paris}", "correct"),
        (r"\text{(C)}", "C", "correct"),
        (r"\text{(C)}", "B", "wrong"),
        (r"\left( 0, \frac{1}{\sqrt{2}} \right]", r"(0,\frac{1}{\sqrt{2}}]", "correct"),
        ("x^2", "x2", None),
        ("2", "1 + 1", None),
        ("12", "1\n2", "wrong"),
        ("42", "4\0002", "wrong"),
        ("0.5", "0.5%", "correct"),
        ("50", r"0.5\%", "wrong"),
        ("1000", "1e3", "correct"),
        ("1e3", "1000", "correct"),
        ("3", "3e99", "wrong"),
        (r"\frac{5}{3}", "1 2/3", "correct"),
        (r"1\frac{2}{3}", r"\frac{5}{3}", "correct"),
        ("1" * 500, "2" * 500, None),
    ],
)
def test_numbers_and_equal_strings_are_decided_in_process(gold: str, answer: str, verdict: Verdict | None) -> None:
    assert quick_verdict(gold, answer) == verdict


@pytest.mark.usefixtures("_no_pool")
@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"5+7=12 \boxed{12}", "correct"),
        (r"\boxed{ 12 }", "correct"),
        (r"\boxed{-12}", "wrong"),
        (r"\boxed{5+7}", "unparseable"),
        (r"\boxed{24/2}", "unparseable"),
        (r"\boxed{12.0}", "unparseable"),
        (r"\boxed{9^{9^9}}", "unparseable"),
        (r"\boxed{" + "9" * 999 + "}", "unparseable"),
        ("12", "wrong"),
    ],
)
def test_integer_problems_take_plain_integers_and_nothing_else(text: str, verdict: Verdict) -> None:
    assert grade(Problem("p", "5+7?", "12", kind="integer"), text) == verdict


def test_an_integer_problem_with_another_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'1/2' is no plain integer"):
        grade(Problem("p", "Q", "1/2", kind="integer"), r"\boxed{1}")


@pytest.mark.usefixtures("_no_pool")
def test_the_fast_path_grades_in_order_without_a_worker() -> None:
    problems = [Problem(str(n), "Q", str(n), hash_answer=n % 2 == 1) for n in range(6)]
    texts = [r"\boxed{0}", "#### 1", "#### 2", r"\boxed{4}", "none", r"<think>\boxed{5}</think>"]
    expected = ["correct", "correct", "wrong", "wrong", "wrong", "wrong"]
    assert grade_many(problems, texts) == expected
    assert grade_many(problems[::-1], texts[::-1]) == expected[::-1]
    with pytest.raises(ValueError, match="6 problems but 1 texts"):
        grade_many(problems, ["one"])
