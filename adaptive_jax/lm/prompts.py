r"""How a question becomes a prompt: an instruction, and the model's chat template where it has one."""

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


def render(tokenizer: Any, question: str, *, form: Form = "answer", cot: bool = True, thinking: bool | None = None) -> str:
    """The text that a model is asked to continue.

    Args:
        tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
        question: the problem's text.
        form: ask for a boxed answer, or for a program.
        cot: ask for step-by-step reasoning; otherwise for the answer or program alone.
        thinking: for chat templates that know `enable_thinking` (Qwen3), its value; None leaves the template's default.

    Returns:
        The prompt, special tokens spelled out (tokenise it with `add_special_tokens=False` when it came from a template).
    """
    content = question + (STEP_BY_STEP if cot else DIRECT)[form]
    if getattr(tokenizer, "chat_template", None) is None:
        return f"Question: {content}\nAnswer:"
    options = {} if thinking is None else {"enable_thinking": thinking}
    messages = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt; none for an empty one.

    A chat template has spelled its special tokens out. For plain text the tokenizer adds those that it opens a text with.
    """
    plain = getattr(tokenizer, "chat_template", None) is None
    return tokenizer.encode(text, add_special_tokens=plain) if text else []
