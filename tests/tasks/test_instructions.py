import re

import pytest

from adaptive_jax.tasks import instructions
from adaptive_jax.tasks.ifeval import verdict
from adaptive_jax.tasks.ifeval_checks import INSTRUCTIONS
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem, shared

NEEDS_NO_PACKAGE = {name for name, instruction in INSTRUCTIONS.items() if instruction.needs is None}


def a_solution(problem: Problem) -> str:
    """A text that follows the instructions, put together from their arguments: shape first, then what is added to it."""
    asked = dict(zip(problem.metadata["instruction_id_list"], problem.metadata["kwargs"], strict=True))
    given = {key: value for arguments in asked.values() for key, value in arguments.items()}
    words = [*given.get("keywords", []), *[given.get("keyword", "")] * given.get("frequency", 0)]
    words += ["*so*"] * given.get("num_highlights", 0) + ["[x]"] * given.get("num_placeholders", 0)
    words += ["HUH"] * given.get("capital_frequency", 0)
    if given.get("let_relation") == "at least":
        words += [given["letter"]] * given["let_frequency"]
    length = asked.get("length_constraints:number_words", {})
    if length.get("relation") == "at least":
        words += ["la"] * length["num_words"]
    if "detectable_format:constrained_response" in asked:
        words.append("My answer is no.")
    text = "oh " + " ".join(words)
    if "num_paragraphs" in given:
        text = (
            "\n\n".join(f"{given['first_word']} a" for _ in "12") + " " + text
            if "first_word" in given
            else "a\n***\n" * (given["num_paragraphs"] - 1) + text
        )
    text = "* a\n" * (given.get("num_bullets", 1) - 1) + ("* " if "num_bullets" in given else "") + text
    text = "".join(f"{given['section_spliter']} {n} " for n in range(given.get("num_sections", 0))) + text
    text = given.get("prompt_to_repeat", "") + text
    if "detectable_format:title" in asked:
        text = f"<<T>> {text}"
    if "combination:two_responses" in asked:
        text = f"a******{text}"
    text = " ".join([text, *[given[key] for key in ("postscript_marker", "end_phrase") if key in given]])
    return f'"{text}"' if {"startend:quotation", "detectable_format:json_format"} & asked.keys() else text


@pytest.mark.parametrize("split", instructions.SPLITS)
def test_every_prompt_can_be_followed_in_a_few_words(split: str) -> None:
    problems = load_problems("instructions", split=split, limit=600)
    solutions = [a_solution(problem) for problem in problems]
    failed = [(p.question, text) for p, text in zip(problems, solutions, strict=True) if verdict(p, text) != "correct"]
    assert failed == []
    assert max(len(re.findall(r"\w+|[^\w\s]", text)) for text in solutions) <= 60
    assert {name for p in problems for name in p.metadata["instruction_id_list"]} == NEEDS_NO_PACKAGE
    assert {len(p.metadata["kwargs"]) for p in problems} == {1, 2}


def test_splits_share_no_topic_no_wording_and_no_question() -> None:
    parts = {split: load_problems("instructions", split=split, limit=400) for split in instructions.SPLITS}
    assert parts["train"] == instructions.problems("train", 400)
    assert len({problem.question for problem in parts["train"]}) == 400
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not shared(parts[one], parts[other])
        for table in (
            instructions.TOPICS,
            instructions.REQUESTS,
            instructions.WORDS,
            instructions.AVOIDED,
            instructions.ENDINGS,
        ):
            assert not set(table[one]) & set(table[other])
        lines = [{line for problem in parts[split] for line in problem.question.split("\n")} for split in (one, other)]
        assert not lines[0] & lines[1]


def test_the_arguments_stand_in_the_question() -> None:
    for problem in instructions.problems("train", 300):
        for arguments in problem.metadata["kwargs"]:
            for value in arguments.values():
                for part in value if isinstance(value, list) else [value]:
                    told = instructions._NUMBERS[part] if isinstance(part, int) and part < 5 else str(part)
                    assert told in problem.question or str(part) in problem.question, (problem.question, arguments)


@pytest.mark.parametrize(("split", "limit", "message"), [("dev", 3, "train, validation"), ("test", 0, "limit")])
def test_bad_requests_name_the_mend(split: str, limit: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instructions.problems(split, limit)
