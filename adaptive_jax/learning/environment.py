"""Where prompts and rewards come from. Text lives on this side; the learner sees trajectories and numbers."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import jax
import numpy as np

from adaptive_jax.decoding.generate import decode_texts
from adaptive_jax.decoding.prompt import Prompt, check_prompts, problem_digest
from adaptive_jax.decoding.trajectory import TrajectoryBuilder
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import Form, encode, render
from adaptive_jax.parallel import machine_memory, memory_limit, rows_here, share
from adaptive_jax.tasks.grading import grade_many, rewards
from adaptive_jax.tasks.problem import Problem, Verdict

Cot = Literal["none", "all", "mix"]


@dataclass(frozen=True)
class Question:
    """A problem as one prompt asks it: step by step (cot), or for the answer alone."""

    problem: Problem
    cot: bool


def questions(problems: Sequence[Problem], cot: Cot) -> list[Question]:
    """How problems are asked: "all" step by step, "none" directly, "mix" half and half (our reading of mix CoT).

    Which half a problem falls into is decided by its id, so it does not depend on the order or number of problems.
    """
    if cot == "mix":
        return [Question(problem, cot=bool(problem_digest(f"cot {problem.id}")[0] % 2)) for problem in problems]
    return [Question(problem, cot=cot == "all") for problem in problems]


def prompt(lm: LM, problem: Problem, cot: bool = True, thinking: bool | None = None, example: bool = False) -> str:
    """The text that a language model is asked to continue for a problem; see `adaptive_jax.lm.prompts.render`."""
    form: Form = "program" if problem.kind == "code" else "answer"
    return render(lm.tokenizer, problem.question, form=form, cot=cot, thinking=thinking, example=example)


def check_memory(what: str, size: int, limit: int, mend: str) -> None:
    """Raises ValueError where `what` takes `size` bytes, more than `limit`; the message has the mend."""
    if size > limit:
        raise ValueError(f"{what} would take {size / 2**30:.1f} GiB, and there are {limit / 2**30:.1f} GiB: {mend}")


class Environment:
    """Questions to a frozen language model, and the verdicts on its completions.

    Args:
        lm: the model.
        asked: Q questions.
        thinking: for chat templates that know thinking, whether it is on; None leaves their default.
        example: show a solved problem before each question.
        allow_unsandboxed: run programs even where this machine has no sandbox for them.
    """

    def __init__(
        self,
        lm: LM,
        asked: Sequence[Question],
        *,
        thinking: bool | None = None,
        example: bool = False,
        allow_unsandboxed: bool = False,
    ):
        self.lm, self.questions, self.allow_unsandboxed = lm, list(asked), allow_unsandboxed
        texts = [prompt(lm, q.problem, q.cot, thinking, example) for q in self.questions]
        self._tokens = [encode(lm.tokenizer, text, lm.config.vocab_size) for text in texts]

    def check(self, budget: int, *, rows: int = 1, completions: int = 1) -> None:
        """Raises ValueError for what cannot be decoded at a token budget of `budget`.

        That is a question that does not fit the model's context, fewer questions than processes, a cache of `rows` rows that is
        larger than the memory, and `completions` of each question whose tokens are.
        """
        share(len(self))
        prompts = [self.prompt(index, budget) for index in range(len(self))]
        check_prompts(prompts, self.lm.config.max_positions)
        rows = min(rows, len(self) * completions)
        cache = jax.eval_shape(lambda: self.lm.decoder.empty_cache(rows_here(rows), self.prompt_width + budget))
        cache_size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        check_memory(f"a cache of {rows} rows", cache_size, memory_limit(), "lower --rows or --budget")
        kept = len(share(len(self))) * completions * budget * TrajectoryBuilder.BYTES
        mend = "lower --completions, --limit, --train-limit or --budget"
        check_memory(f"{completions} completions of each of {len(self)} questions", kept, machine_memory(), mend)

    @property
    def prompt_width(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(tokens) for tokens in self._tokens)

    def __len__(self) -> int:
        return len(self.questions)

    def prompt(self, index: int, budget: int) -> Prompt:
        """Question `index` at a token budget. Its identity tells the two ways of asking a problem apart."""
        question = self.questions[index]
        identity = question.problem.id if question.cot else f"{question.problem.id}#direct"
        return Prompt(identity, self._tokens[index], budget)

    def grading(self, asked: Sequence[int] | np.ndarray, cuts: Sequence[int] | None = None) -> "Grading":
        """Grades completions, which answer questions `asked`, int [N], while others are still decoded."""
        return Grading(self, np.asarray(asked), cuts)

    def verdicts(self, tokens: np.ndarray, lengths: np.ndarray, asked: Sequence[int] | np.ndarray) -> list[Verdict]:
        """Verdicts on completions.

        Args:
            tokens: int32 [N, T]; lengths: int [N], how many of them are judged.
            asked: int [N], the question that each completion answers.
        """
        texts = decode_texts(self.lm, tokens, lengths)
        return grade_many([self.questions[i].problem for i in asked], texts, allow_unsandboxed=self.allow_unsandboxed)


class Grading:
    """Grades completions as they end, in a thread, so that it overlaps with decoding; a context manager.

    Args:
        environment: whose questions are answered.
        asked: int [N], the question that each completion answers.
        cuts: K lengths at which completions are judged, as if they had been cut off there; None judges them whole, K = 1.
    """

    def __init__(self, environment: Environment, asked: np.ndarray, cuts: Sequence[int] | None):
        self._environment, self._asked, self._cuts = environment, asked, cuts
        self._verdicts = np.full((len(asked), len(cuts or (0,))), "", dtype=object)
        self._pending: list[Future[None]] = []
        self._executor = ThreadPoolExecutor(1)

    def add(self, numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Completions `numbers`, int [M], have ended: tokens int32 [M, T], lengths int32 [M]. For `rollout`'s `on_ended`.

        Raises what the grader raised on earlier ones.
        """
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._executor.submit(self._judge, numbers, tokens, lengths))

    def _judge(self, numbers: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> None:
        ends = lengths[:, None] if self._cuts is None else np.minimum(lengths[:, None], np.array(self._cuts))
        copies = np.repeat(np.arange(len(numbers)), ends.shape[1])
        verdicts = self._environment.verdicts(tokens[copies], ends.reshape(-1), self._asked[numbers[copies]])
        self._verdicts[numbers] = np.array(verdicts, object).reshape(ends.shape)

    def verdicts(self) -> np.ndarray:
        """Every verdict, object [N, K]; waits for those that are not given yet. Raises what the grader raised."""
        for pending in self._pending:
            pending.result()
        return self._verdicts

    def rewards(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 [N, K] in {0, 1}, and bool [N, K]: False where the grader failed and nothing is known."""
        verdicts = self.verdicts()
        correct, known = rewards(verdicts.reshape(-1).tolist())
        return correct.reshape(verdicts.shape), known.reshape(verdicts.shape)

    def __enter__(self) -> "Grading":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._executor.shutdown(cancel_futures=True)
