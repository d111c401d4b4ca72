r"""Holes that a policy would find: answers that math-verify alone rewards, though they are not the gold answer, or not only."""

import pytest

from adaptive_jax.tasks.grading import grade
from adaptive_jax.tasks.maths_screen import echoes
from adaptive_jax.tasks.problem import Problem

DODGES = [
    # several answers, or a number that is taken back
    ("10", r"10\text{ or 11}"),
    ("10", r"10\text{ or more}"),
    ("10", r"10\text{ is wrong}"),
    ("10", r"10\text{ (not 11)}"),
    ("5", r"5 \approx 7"),
    ("5", r"\frac{10}{2}\text{ ft }7\text{ in}"),
    ("12", r"5\quad 7"),
    ("12", "{5}{7}"),
    ("57", "5 7"),
    ("57", "5\n7"),
    ("1,2", r"1,2,\ldots"),
    (r"\{1,2\}", r"\{1,2,\dots\}"),
    ("5", r"x=5 \text{ or } x=7"),
    ("5", r"5 \text{ or } 7"),
    ("5", "5, 7"),
    ("5", r"\{5,7\}"),
    ("5", "7 @#@ $5$"),
    ("5", r"7)\)( \(5\)"),
    ("5", "final answer is $5$. I hope"),
    # everything and nothing
    ("5", "(0,10)"),
    ("5", "4 < x < 6"),
    ("5", r"5 \pm 2"),
    ("5", r"\mathbb{R}"),
    ("5", r"\text{all}"),
    ("5", "x"),
    ("5", r"\infty"),
    # another number
    ("10", r"10\text{ million}"),
    ("10", r"10\text{ dozen}"),
    ("0", "5e0"),
    ("10^{-8}", "0.0"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{3^{99}}"),
    (r"\frac{11}{2}", "1 1/2"),
    ("12", "12_5"),
    ("12_5", "12_7"),
    ("7", "\uff17"),
    ("7", "\u0667"),
    # another unit
    (r"10\text{ cm}", "10 m"),
    (r"10\text{ cm}", r"10\%"),
    (r"\$30", r"30\%"),
    (r"\$30", r"30\text{ cents}"),
    (r"67^\circ", r"67\text{ radians}"),
    # another kind of thing
    (r"\{1,2\}", "(1,2)"),
    ("(1,2)", r"\left\{1,2\right\}"),
    ("[1,2]", r"\{1,2\}"),
]


@pytest.mark.parametrize(("gold", "answer"), DODGES)
def test_a_dodge_is_not_rewarded(gold: str, answer: str) -> None:
    assert grade(Problem("p", "Q", gold), rf"\boxed{{{answer}}}") in ("wrong", "unparseable")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", r"5\text{ apples}"),
        ("5", "5 units"),
        ("5", r"5\ \text{miles per hour}"),
        ("3", r"3\text{ m}^2"),
        (r"3x\text{ cm}", "3x"),
        (r"10\text{ cm}", "10cm"),
        (r"\$30", r"\$30.00"),
        (r"\$30", "30 dollars"),
        (r"67^\circ", r"67\text{ degrees}"),
        ("50", r"50\text{ percent}"),
        ("50", "50 percent"),
        (r"\$30\text{ million}", r"\$30 \text{ million}"),
        ("1,2", r"1\text{ or }2"),
        ("1,2", r"x=1\text{ and }x=2"),
        ("1,2", r"\{2,1\}"),
        ("1,2,\\ldots", r"1,2,\ldots"),
        (r"\{1,2\}", r"\left\{2,1\right\}"),
        ("12_5", "12"),
        ("12_5", "12_{5}"),
        ("12", "12_{10}"),
        ("1000000", "1 000 000"),
        ("1000", r"1\,000"),
        ("1000", "1e3"),
        ("0.001", "1.0e-3"),
        (r"\frac{3}{2}", "1 1/2"),
        (r"-\frac{3}{2}", r"-1\frac12"),
        (r"2\frac{1}{2}", "2.5"),
        ("0", "-0"),
        ("7", "7.0"),
        (r"\frac{1}{2^{99}}", "2^{-99}"),
        ("10^{-8}", r"\frac{1}{10^8}"),
        (r"\frac{\pi}{400}", r"\pi/400"),
    ],
)
def test_what_only_looks_like_a_dodge_is_right(gold: str, answer: str) -> None:
    assert grade(Problem("p", "Q", gold), rf"\boxed{{{answer}}}") == "correct"


@pytest.mark.parametrize(
    ("question", "gold", "answer", "verdict"),
    [
        ("Compute $2+3$.", "5", "2+3", "wrong"),
        ("Compute $2+3$.", "5", r"\frac{10}{2}", "correct"),
        (r"Factor $2x^2-2$.", "2(x-1)(x+1)", r"2x^{2} - 2", "wrong"),
        (r"Factor $2x^2-2$.", "2(x-1)(x+1)", "2(x+1)(x-1)", "correct"),
        (r"Simplify $\dfrac{x^2}{x}+x$.", "2x", r"\frac{x^2}{x} + x", "wrong"),
        ("Which of $[0,1]$ and $(0,1)$ holds 1?", "[0,1]", r"\left[0, 1\right]", "correct"),
        ("For which $n$ is $n - 5 = 0$? Is it -5?", "-5", "-5", "correct"),
    ],
)
def test_repeating_the_question_is_no_answer(question: str, gold: str, answer: str, verdict: str) -> None:
    assert grade(Problem("p", question, gold), rf"\boxed{{{answer}}}") == verdict


def test_only_an_expression_can_echo() -> None:
    assert echoes("What is 2 + 3?", "5", "2+3")
    assert not any(echoes("Is x = 5, or 7, or y?", "8", answer) for answer in ("7", "x = 5", "y", "-7"))
