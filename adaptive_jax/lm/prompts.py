r"""How a question becomes a prompt: an instruction, and the model's chat template where it has one."""

import reprlib
from typing import Any, Literal

Form = Literal["answer", "program"]

STEP_BY_STEP: dict[Form, str] = {
    "answer": "\nReason step by step and put the final answer in \\boxed{}.",
    "program": "\nReason step by step, then write a Python program that reads standard input and writes standard output, "
    "in a ```python block.",
}
DIRECT: dict[Form, str] = {
    "answer": "\nPut only the final answer in \\boxed{}.",
    "program": "\nWrite only a Python program that reads standard input and writes standard output, in a ```python block.",
}


# a problem, and its solution step by step and directly: ours, and simple, since it only shows the form
EXAMPLE: dict[Form, tuple[str, str, str]] = {
    "answer": ("Tom has 3 pens and buys 4. How many pens does he have?", "He has 3 + 4 = 7 pens. \\boxed{7}", "\\boxed{7}"),
    "program": (
        "Read an integer n and print n + 1.",
        "Read n, then print n + 1.\n```python\nprint(int(input()) + 1)\n```",
        "```python\nprint(int(input()) + 1)\n```",
    ),
}


def render(
    tokenizer: Any,
    question: str,
    *,
    form: Form = "answer",
    cot: bool = True,
    thinking: bool | None = None,
    example: bool = False,
) -> str:
    """The text that a model is asked to continue.

    Args:
        tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
        question: the problem's text.
        form: ask for a boxed answer, or for a program.
        cot: ask for step-by-step reasoning; otherwise for the answer or program alone.
        thinking: for chat templates that know `enable_thinking` (Qwen3), its value; None leaves the template's default.
        example: show a solved problem first, as an earlier turn: small models seldom box an answer without.

    Returns:
        The prompt, special tokens spelled out (tokenise it with `add_special_tokens=False` when it came from a template).

    Raises:
        ValueError: the chat template fails.
    """
    order = (STEP_BY_STEP if cot else DIRECT)[form]
    shown, worked, direct = EXAMPLE[form]
    before = [(shown + order, worked if cot else direct)] if example else []
    if getattr(tokenizer, "chat_template", None) is None:
        solved = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in before)
        return f"{solved}Question: {question}{order}\nAnswer:"
    options = {} if thinking is None else {"enable_thinking": thinking}
    turns = [turn for asked, answer in before for turn in (("user", asked), ("assistant", answer))]
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", question + order))]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except Exception as error:  # it is a program: anything may go wrong in it
        raise ValueError(
            f"the tokenizer's chat template fails ({type(error).__name__}: {error}): mend 'chat_template', or take it away"
        ) from error


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
