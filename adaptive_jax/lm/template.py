"""A user's own wording of a question, as a Jinja template in a sandbox."""

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from adaptive_jax.lm.prompts import as_turns
from adaptive_jax.tasks.problem import Problem
from adaptive_jax.tasks.solutions import solved

NAMES = ("id", "question", "metadata", "cot")


class QuestionTemplate:
    """Renders problems as prompts: the template words a question, the model's chat template makes a turn of it.

    Solved examples stand before it as earlier turns, worded by the same template. Without a chat template the text is continued
    as it stands, and examples are followed by their solutions and an empty line.

    Args:
        text: the template. It knows `id`, `question`, `metadata` and `cot`, whether the answer is to be reasoned out; not the
            answer.
        name: what messages call it, such as a file name.
        tokenizer: of the model.
        examples: solved problems, or a function that takes a problem and returns those for it.
        thinking: for chat templates that know thinking, whether it is on; None leaves their default.

    Raises:
        ValueError: it is no template, or has a name that it doesn't know.
    """

    def __init__(
        self,
        text: str,
        name: str,
        tokenizer: Any,
        *,
        examples: Sequence[Problem] | Callable[[Problem], Sequence[Problem]] = (),
        thinking: bool | None = None,
    ):
        self._name, self._tokenizer, self._examples, self._thinking = name, tokenizer, examples, thinking
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
        try:
            self._template = environment.from_string(text)
            names = meta.find_undeclared_variables(environment.parse(text))
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ValueError(f"{name}{f', line {line}' if line else ''}: no Jinja template ({error})") from error
        if unknown := sorted(names - {*NAMES, *environment.globals}):
            raise ValueError(f"{name}: {', '.join(unknown)} is not defined; there are {', '.join(NAMES)}")

    def __call__(self, problem: Problem, cot: bool) -> str:
        """The text that the model is asked to continue.

        Raises:
            ValueError: the template fails on the problem, or an example has no solution.
        """
        examples = self._examples(problem) if callable(self._examples) else self._examples
        before = [(self._worded(example, cot), solved(example, cot=cot)) for example in examples]
        return as_turns(self._tokenizer, self._worded(problem, cot), before, self._thinking)

    def _worded(self, problem: Problem, cot: bool) -> str:
        values = {"id": problem.id, "question": problem.question, "metadata": problem.metadata, "cot": cot}
        try:
            return self._template.render(values)
        except Exception as error:  # a template can raise whatever its expressions do
            raise ValueError(f"{self._name} fails on problem {problem.id!r}: {error}") from error
