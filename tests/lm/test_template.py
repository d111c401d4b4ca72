"""Questions in a user's own words."""

from typing import Any

import pytest

from adaptive_jax.lm.template import QuestionTemplate
from adaptive_jax.tasks.problem import Problem

PROBLEM = Problem("p", "Why?", "42", metadata={"level": 3})
EXAMPLE = Problem("e", "How?", "6", metadata={"level": 1, "solution": "So."})
TEXT = "{{ question | upper }} ({{ metadata.level }}{% if cot %}, slowly{% endif %})"


class Plain:
    chat_template = None


class Chat:
    chat_template = "given"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "|".join(f"{message['role']}:{message['content']}" for message in messages)


def test_a_template_words_the_question_and_its_examples() -> None:
    asked = QuestionTemplate(TEXT, "t", Plain(), examples=[EXAMPLE])
    assert asked(PROBLEM, cot=True) == "HOW? (1, slowly) So. \\boxed{6}\n\nWHY? (3, slowly)"
    turns = QuestionTemplate(TEXT, "t", Chat(), examples=[EXAMPLE])
    assert turns(PROBLEM, cot=False) == "user:HOW? (1)|assistant:\\boxed{6}|user:WHY? (3)"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{{ question }} {{ answer }}", "t: answer is not defined; there are id, question, metadata, cot"),
        ("one\n{{ question", "t, line 2: no Jinja template"),
        ("{{ question | nothing }}", "t, line 1: no Jinja template"),
    ],
)
def test_a_template_that_is_none_is_told_of(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        QuestionTemplate(text, "t", Plain())


@pytest.mark.parametrize(
    "text", ["{{ metadata.absent }}", "{{ ''.__class__.__mro__ }}", "{{ metadata.update({}) }}", "{{ 1 / 0 }}"]
)
def test_a_template_that_fails_names_the_problem(text: str) -> None:
    with pytest.raises(ValueError, match="t fails on problem 'p'"):
        QuestionTemplate(text, "t", Plain())(PROBLEM, cot=False)
