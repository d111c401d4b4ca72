import logging
import sys
from pathlib import Path

import pytest

from adaptive_jax.tasks import text_units
from adaptive_jax.tasks.grading import grade_many
from adaptive_jax.tasks.ifeval import followed, verdict
from adaptive_jax.tasks.ifeval_checks import INSTRUCTIONS
from adaptive_jax.tasks.loading import as_problem, load_problems
from adaptive_jax.tasks.problem import MalformedRow, Problem
from tests.tasks.test_loading import write_jsonl

CASES = [  # instruction, arguments, texts that follow it, texts that break it
    ("keywords:existence", {"keywords": ["sun", "C++"]}, ["Sunny c++"], ["sun", "c++"]),
    ("keywords:frequency", {"keyword": " cat ", "frequency": 2, "relation": "at least"}, ["Cat, concat"], ["cat"]),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, ["cat"], ["cat cat"]),
    ("keywords:forbidden_words", {"forbidden_words": ["no", "bad"]}, ["nobody is_bad"], ["No.", 'say "bad"']),
    ("keywords:letter_frequency", {"letter": "A", "let_frequency": 3, "let_relation": "at least"}, ["Aaa"], ["aa", "ááá"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["x"], ["#x"]),
    ("language:response_language", {"language": "de"}, ["Das ist ein schöner Tag im Wald.", "123"], ["This is a nice day."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["well-known"], ["it's 3.5"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["1. One two", "don't you"], ["one two 🙂"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ['He said: "Go!" So I went.', "1. One"],
        ["Dr. Smith is 3.5 ft.", "A list:\n- one\n- two"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***a***b\n***\n"],
        ["a\n\nb", "a***\n\n***b"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Now"},
        ["a\n\nnow, b", "a\n\n\"now's b", "a\n\n'NOW b"],
        ["a\nnow", "now\n\na", "a\n\nnow\n\nb", "a\n\n\n\nnow", "a\n\n(now)"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]", "[[a]] []"], ["[a]", "[a\n] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye\nP.S. x", "p. s. x"], ["PS x", "P.S"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x p.p.s", "P. P. S. x"], ["P.S. x"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n  - b", "- a\n---"],
        ["* a", "1. a\n2. b", "**a**\n* b"],
    ),
    ("detectable_format:constrained_response", {}, ["Hm. My answer is no."], ["my answer is no.", "My answer is no"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*"],
        ["*a*", "** ** *a*", "*a\n* b*c"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1Section2"],
        ["SECTION 1 SECTION 2", "Section I Section II", "Section 1"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```", "```\n1```", "NaN"], ["a", "x ```1```", "[1"]),
    ("detectable_format:json_format", {}, ['"é"'], ["[" * 100_000, "```python\n1\n```"]),
    ("detectable_format:title", {}, ["<<A title>>\ntext"], ["<<>>", "<< >>", "<a>", "<<a\n>>"]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b"],
        ["a******a ", "a", "a******\n******b", "a******b******c"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi. "}, [" say HI. Hi"], ['"Say hi." Hi', "Hi"]),
    ("startend:end_checker", {"end_phrase": "The end."}, ["x THE END. ", '"the end."'], ["the end", "The end. x"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["I am"],
        ["DON'T", "A—B"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["A U.S. x"], ["A-B é"]),
    (
        "change_case:english_capital",
        {},
        ["THIS IS A LOUD ANSWER TO THE QUESTION!"],
        ["This is", "DAS IST EIN SCHÖNER TAG IM WALD."],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is a quiet answer, with 2 clauses."],
        ["This is a", "das ist ein schöner tag im wald."],
    ),
    ("startend:quotation", {}, [' "a"\n', '""'], ['"', "“a”", '"a".', "'a'"]),
    ("punctuation:no_comma", {}, ["a;b", "1，000"], ["a,b", "1,000"]),  # noqa: RUF001
]


def problem(*instructions: tuple[str, dict]) -> Problem:
    names, kwargs = zip(*instructions, strict=True)
    return as_problem({"prompt": "Q", "instruction_id_list": list(names), "kwargs": list(kwargs)})


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_each_instruction(name: str, arguments: dict, good: list[str], bad: list[str]) -> None:
    one = problem((name, arguments | {"nothing": None}))
    assert [followed(one, text) for text in good] == [[True]] * len(good)
    assert [followed(one, text) for text in bad] == [[False]] * len(bad)
    assert followed(one, " \n") == followed(one, "", loose=True) == [False]


def test_all_25_instructions_are_tested() -> None:
    assert {case[0] for case in CASES} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25


def test_a_prompt_is_right_when_every_instruction_is_followed() -> None:
    both = problem(("punctuation:no_comma", {}), ("startend:quotation", {}))
    assert [verdict(both, text) for text in ('"a"', '"a,"', "a", "")] == ["correct", "wrong", "wrong", "wrong"]
    assert grade_many([both, both], ['"a"', "a"]) == ["correct", "wrong"]


def test_loose_forgives_a_first_and_a_last_line_and_stars() -> None:
    one = problem(("startend:quotation", {}), ("keywords:forbidden_words", {"forbidden_words": ["sure"]}))
    assert followed(one, 'Sure!\n**"a"**\nBye', loose=True) == [True, True]
    assert followed(one, 'Sure!\n**"a"**\nBye') == [False, False]
    assert followed(one, 'Hm\nSure!\n"a"', loose=True) == [False, False]


def test_words_in_capitals_are_the_treebank_tokens() -> None:
    # counted by nltk 3.10's word_tokenize
    for text, count in {"CANNOT": 2, "'TIS": 1, "WE'LL GO": 3, "A:B 1:A": 3, "ROCK'N'ROLL": 1, "NASA/ESA (EU)": 2}.items():
        assert text_units.count_capital_words(text) == count, text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kwargs": None}, "no field 'kwargs'"),
        ({"kwargs": [{}]}, "field 'kwargs' is no list of 2 objects"),
        (
            {"instruction_id_list": ["a:b", "c:d"]},
            "'instruction_id_list' has the unknown instruction 'a:b'; known are .*punctuation",
        ),
        ({"kwargs": [{}, {"relation": "at least"}]}, r"entry 2 \(length_constraints:number_words\): no 'num_words'"),
        ({"kwargs": [{}, {"relation": "most", "num_words": 3}]}, "'relation' is 'most'; give 'less than' or 'at least'"),
        ({"kwargs": [{}, {"relation": "at least", "num_words": 2.5}]}, "'num_words' is 2.5; give a whole number"),
        ({"kwargs": [{"words": 1}, {"relation": "at least", "num_words": 2}]}, "entry 1 .*has no argument 'words'"),
        ({"prompt": None}, "no field 'prompt'"),
    ],
)
def test_a_malformed_row_names_its_field(change: dict, message: str) -> None:
    names = ["punctuation:no_comma", "length_constraints:number_words"]
    row = {"prompt": "Q", "instruction_id_list": names, "kwargs": [{}, {"relation": "at least", "num_words": 3.0}]}
    assert as_problem(row).metadata["kwargs"] == [{}, {"relation": "at least", "num_words": 3}]
    with pytest.raises(MalformedRow, match=message):
        as_problem(row | change)


def test_rows_that_need_a_missing_package_are_counted_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    names = ["change_case:english_capital", "punctuation:no_comma", "change_case:english_capital", "startend:quotation"]
    rows = [{"key": n, "prompt": "Q", "instruction_id_list": [name], "kwargs": [{}]} for n, name in enumerate(names)]
    file = write_jsonl(tmp_path, *rows)
    with pytest.raises(
        ValueError, match=r"2 of the rows need langdetect, not installed: 2 of change_case:english_capital; .*--skip"
    ):
        load_problems(file)
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in load_problems(file, skip_bad=True)] == ["1", "3"]
    assert "2 of change_case:english_capital" in caplog.text
