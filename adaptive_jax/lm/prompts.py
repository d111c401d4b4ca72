r"""How a question becomes a prompt: an instruction, and the model's chat template where it has one."""

import reprlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Int32

Form = Literal["answer", "program", "text", "request"]

STEP_BY_STEP: dict[Form, str] = {
    "answer": "\nReason step by step and put the final answer in \\boxed{}.",
    "program": "\nReason step by step, then write a Python program that reads standard input and writes standard output, "
    "in a ```python block.",
    "text": '\nReason step by step and write the final answer behind "Answer:".',
    "request": "",
}
DIRECT: dict[Form, str] = {
    "answer": "\nPut only the final answer in \\boxed{}.",
    "program": "\nWrite only a Python program that reads standard input and writes standard output, in a ```python block.",
    "text": "\nGive only the answer.",
    "request": "",
}


def render(
    tokenizer: Any,
    question: str,
    *,
    form: Form = "answer",
    cot: bool = True,
    thinking: bool | None = None,
    examples: Sequence[tuple[str, str]] = (),
) -> str:
    """The text that a model is asked to continue.

    Args:
        tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
        question: the problem's text.
        form: ask for a boxed answer, a program, or an answer as text; a "request" says itself what it asks for.
        cot: ask for step-by-step reasoning; otherwise for the answer or program alone.
        thinking: for chat templates that know `enable_thinking` (Qwen3), its value; None leaves the template's default.
        examples: questions and their solutions, which are shown before it as earlier turns, asked in the same way.

    Returns:
        The prompt, special tokens spelled out (tokenise it with `add_special_tokens=False` when it came from a template).

    Raises:
        ValueError: the chat template fails, or does not know thinking.
    """
    order = (STEP_BY_STEP if cot else DIRECT)[form]
    asked, before = question + order, [(shown + order, solution) for shown, solution in examples]
    if getattr(tokenizer, "chat_template", None) is None:
        asked, before = _plain(asked), [(_plain(shown), solution) for shown, solution in before]
    return as_turns(tokenizer, asked, before, thinking)


def _plain(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def as_turns(tokenizer: Any, asked: str, before: Sequence[tuple[str, str]], thinking: bool | None = None) -> str:
    """The text to continue: `asked` as the user's turn behind earlier turns, pairs of what was asked and answered.

    Without a chat template the texts stand one behind the other, with an empty line behind each answer.

    Raises:
        ValueError: the chat template fails, or does not know thinking.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return "".join(f"{shown} {answer}\n\n" for shown, answer in before) + asked
    if thinking is not None and "enable_thinking" not in str(tokenizer.chat_template):
        raise ValueError("the tokenizer's chat template does not know 'enable_thinking': leave --thinking out for this model")
    options = {} if thinking is None else {"enable_thinking": thinking}
    turns = [turn for shown, answer in before for turn in (("user", shown), ("assistant", answer))]
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", asked))]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except Exception as error:  # it is a program: anything may go wrong in it
        raise ValueError(
            f"the tokenizer's chat template fails ({type(error).__name__}: {error}): mend 'chat_template', or take it away"
        ) from error


def decode(tokenizer: Any, tokens: Int32[np.ndarray, "texts tokens"], lengths: Int[np.ndarray, " texts"]) -> list[str]:
    """Texts without special tokens; the first `lengths` tokens of each row are its text."""
    return tokenizer.batch_decode([row[:n] for row, n in zip(tokens, lengths, strict=True)], skip_special_tokens=True)


def encode(tokenizer: Any, text: str, vocab_size: int) -> list[int]:
    """Token ids of a prompt, below the model's `vocab_size`; none for an empty one.

    A chat template has spelled its special tokens out. For plain text the tokenizer adds those that it opens a text with.

    Raises:
        ValueError: the tokenizer has an id for the text that the model has not.
    """
    plain = getattr(tokenizer, "chat_template", None) is None
    tokens = tokenizer.encode(text, add_special_tokens=plain) if text else []
    if tokens and (largest := max(tokens)) >= vocab_size:
        raise ValueError(
            f"the tokenizer gives {reprlib.repr(text)} the id {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), beyond "
            f"the model's vocabulary of {vocab_size}: take the tokenizer that belongs to the weights"
        )
    return tokens
