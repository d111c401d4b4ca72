"""Prompts: with and without a chat template, step by step and directly, for answers and for programs."""

import copy
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

import adaptive_jax as aj
from adaptive_jax.lm.prompts import DIRECT, STEP_BY_STEP, Form, encode, render

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


@pytest.fixture(scope="module")
def plain() -> Any:
    tokenizer = copy.deepcopy(aj.load_lm("tiny").tokenizer)
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(scope="module")
def chat(plain: Any) -> Any:
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize(("cot", "order"), [(True, STEP_BY_STEP), (False, DIRECT)])
@pytest.mark.parametrize("form", ["answer", "program"])
def test_the_question_comes_with_its_order(plain: Any, chat: Any, form: Form, cot: bool, order: dict[Form, str]) -> None:
    asked = "How many?" + order[form]
    assert render(plain, "How many?", form=form, cot=cot) == f"Question: {asked}\nAnswer:"
    assert render(chat, "How many?", form=form, cot=cot) == f"<user>{asked}<assistant>"
    assert ("boxed" in asked) == (form == "answer")
    assert ("step by step" in asked) == cot


def test_thinking_reaches_the_template(plain: Any, chat: Any) -> None:
    assert render(chat, "Q", thinking=False).endswith("<assistant><think></think>")
    assert render(chat, "Q", thinking=True) == render(chat, "Q") == f"<user>Q{STEP_BY_STEP['answer']}<assistant>"
    assert render(plain, "Q", thinking=False) == render(plain, "Q")
    ignorant = copy.deepcopy(chat)
    ignorant.chat_template = TEMPLATE.partition("{% if enable_thinking")[0]
    assert render(ignorant, "Q") == render(chat, "Q")
    with pytest.raises(ValueError, match="does not know 'enable_thinking': leave --thinking out for this model"):
        render(ignorant, "Q", thinking=False)


@pytest.mark.parametrize("cot", [True, False])
def test_examples_are_earlier_turns(plain: Any, chat: Any, cot: bool) -> None:
    order = (STEP_BY_STEP if cot else DIRECT)["answer"]
    pairs = [("P", "p"), ("R", "r")]
    turns = f"<user>P{order}<assistant>p<user>R{order}<assistant>r<user>Q{order}<assistant>"
    assert render(chat, "Q", cot=cot, examples=pairs) == turns
    text = "".join(f"Question: {asked}{order}\nAnswer: {answer}\n\n" for asked, answer in pairs)
    assert render(plain, "Q", cot=cot, examples=pairs) == f"{text}Question: Q{order}\nAnswer:"


def test_only_plain_text_is_opened_by_the_tokenizer(plain: Any, chat: Any) -> None:
    added: list[bool] = []

    class Spy:
        def __init__(self, chat_template: str | None):
            self.chat_template = chat_template

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            added.append(add_special_tokens)
            return [1]

    assert encode(Spy(None), "text", 2) == encode(Spy(TEMPLATE), "text", 2) == [1]
    assert added == [True, False]
    assert encode(plain, "", 2) == encode(chat, "", 2) == []


# as Gemma's: it spells the first token out, refuses system turns, and wants turns to alternate
STRICT = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ 'model' if message['role'] == 'assistant' else 'user' }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.mark.parametrize("template", [None, STRICT])
def test_a_prompt_begins_once_with_the_first_token_as_transformers_begins_it(plain: Any, template: str | None) -> None:
    tokenizer = copy.deepcopy(plain)
    tokenizer.bos_token, tokenizer.chat_template = tokenizer.eos_token, template
    first = tokenizer.bos_token_id
    begin = TemplateProcessing(single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, first)])
    tokenizer.backend_tokenizer.post_processor = begin
    text = render(tokenizer, "How many?", examples=[("1?", "1"), ("2?", "2")])
    ids = encode(tokenizer, text, len(tokenizer))
    assert (ids[0], ids.count(first)) == (first, 1)
    if template is None:
        assert ids == tokenizer(text)["input_ids"]
    else:
        order = STEP_BY_STEP["answer"]
        turns = [
            ("user", "1?" + order),
            ("assistant", "1"),
            ("user", "2?" + order),
            ("assistant", "2"),
            ("user", "How many?" + order),
        ]
        chat = [{"role": role, "content": content} for role, content in turns]
        theirs = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=True)
        assert ids == theirs["input_ids"]
