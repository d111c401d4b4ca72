"""Where prompts and rewards come from. Text lives on this side; the learner sees trajectories and numbers."""

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Shaped

from adaptive_jax.decoding.prompt import Prompt, check_prompts, problem_digest
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.decoding.trajectory import TrajectoryBuilder
from adaptive_jax.lm.model import LM
from adaptive_jax.lm.prompts import Form, decode, encode, render
from adaptive_jax.parallel import machine_memory, memory_limit, rows_here, share
from adaptive_jax.tasks.grading import rewarded
from adaptive_jax.tasks.problem import Grade, Kind, Problem
from adaptive_jax.tasks.rewards import Reward, RewardFunction, reward_function
from adaptive_jax.tasks.solutions import solved

Cot = Literal["none", "all", "mix"]


@dataclass(frozen=True)
class Question:
    """A problem as one prompt asks it: step by step (cot), or for the answer alone."""

    problem: Problem
    cot: bool

    @property
    def id(self) -> str:
        """What its completions' draws depend on; tells the two ways of asking a problem apart."""
        return self.problem.id if self.cot else f"{self.problem.id}#direct"


def questions(problems: Sequence[Problem], cot: Cot) -> list[Question]:
    """How problems are asked: "all" step by step, "none" directly, "mix" half and half (our reading of mix CoT).

    Which half a problem falls into is decided by its id, so it does not depend on the order or number of problems.
    """
    if cot == "mix":
        return [Question(problem, cot=bool(problem_digest(f"cot {problem.id}")[0] % 2)) for problem in problems]
    return [Question(problem, cot=cot == "all") for problem in problems]


_FORMS: dict[Kind, Form] = {"code": "program", "reasoning_gym": "text", "instructions": "request"}

Example = Problem | tuple[str, str]


def prompt(lm: LM, problem: Problem, cot: bool = True, thinking: bool | None = None, examples: Sequence[Example] = ()) -> str:
    """The text that a language model is asked to continue for a problem; see `adaptive_jax.lm.prompts.render`.

    Args:
        examples: solved problems, or pairs of a question and its solution, which are shown first as earlier turns.

    Raises:
        ValueError: an example has no solution (see `adaptive_jax.tasks.solutions.solved`).
    """
    shown = [(e.question, solved(e, cot=cot)) if isinstance(e, Problem) else e for e in examples]
    form = _FORMS.get(problem.kind, "answer")
    return render(lm.tokenizer, problem.question, form=form, cot=cot, thinking=thinking, examples=shown)


def check_memory(what: str, size: int, limit: int, mend: str) -> None:
    """Raises ValueError where `what` takes `size` bytes, more than `limit`; the message has the mend."""
    if size > limit:
        raise ValueError(f"{what} would take {size / 2**30:.1f} GiB, and there are {limit / 2**30:.1f} GiB: {mend}")


default_prompt = prompt  # `Environment` has an argument of that name


class Environment:
    """Problems put to a frozen language model, and the rewards of its completions.

    Args:
        lm: the model.
        problems: P of them.
        cot: how they are asked (see `questions`); with several ways, each problem is asked in each of them.
        reward: takes a problem and a completion's text, returns a number in [0, 1] or a bool; it is called in other processes
            (see `adaptive_jax.tasks.rewards`). By default the grader of the problem's kind.
        prompt: takes a problem, and `cot` where it has a parameter of that name; returns the whole text that the model is to
            continue, special tokens spelled out. By default `adaptive_jax.prompt`.
        examples: solved problems, or pairs of a question and its solution, which are shown before each question; or a function
            that takes a problem and returns those for it.
        stop: a completion ends where its text first contains one of these, which is cut off, and so is what follows.
        thinking: for chat templates that know thinking, whether it is on; None leaves their default.
        allow_unsandboxed: run programs even where this machine has no sandbox for them.

    Raises:
        TypeError: problems is no sequence of problems.
        ValueError: no problem, an empty stop text, an example without a solution, or a reward of another signature.
    """

    def __init__(
        self,
        lm: LM,
        problems: Sequence[Problem],
        cot: Cot | Sequence[Cot] = "all",
        *,
        reward: Reward | RewardFunction | None = None,
        prompt: Callable[..., str] | None = None,
        examples: Sequence[Example] | Callable[[Problem], Sequence[Example]] = (),
        stop: Sequence[str] = (),
        thinking: bool | None = None,
        allow_unsandboxed: bool = False,
    ):
        if not problems:
            raise ValueError("problems is empty: give at least one problem")
        if not all(isinstance(problem, Problem) for problem in problems):
            raise TypeError("problems holds what is no problem: give adaptive_jax.Problem objects")
        self.lm, self.allow_unsandboxed = lm, allow_unsandboxed
        self.reward = reward if reward is None or isinstance(reward, RewardFunction) else reward_function(reward)
        self.stop = StopTexts(lm, stop)
        ways = [cot] if isinstance(cot, str) else cot
        self.questions = [question for way in ways for question in questions(problems, way)]
        asks_cot = prompt is not None and "cot" in inspect.signature(prompt).parameters
        self._tokens = []
        for question in self.questions:
            if prompt is None:
                shown = examples(question.problem) if callable(examples) else examples
                text = default_prompt(lm, question.problem, question.cot, thinking, shown)
            else:
                text = prompt(question.problem, **({"cot": question.cot} if asks_cot else {}))
            self._tokens.append(encode(lm.tokenizer, text, lm.config.vocab_size))

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
        """Question `index` at a token budget."""
        return Prompt(self.questions[index].id, self._tokens[index], budget)

    def grading(self, asked: Sequence[int] | Int[np.ndarray, " completions"], cuts: Sequence[int] | None = None) -> "Grading":
        """Grades completions, which answer questions `asked`, while others are still decoded."""
        return Grading(self, np.asarray(asked), cuts)

    def texts(self, tokens: Int32[np.ndarray, "completions steps"], lengths: Int[np.ndarray, " completions"]) -> list[str]:
        """The texts of completions up to the first stop text; arguments as for `grades`."""
        return [self.stop.cut(text) for text in decode(self.lm.tokenizer, tokens, lengths)]

    def grades(
        self,
        tokens: Int32[np.ndarray, "completions steps"],
        lengths: Int[np.ndarray, " completions"],
        asked: Sequence[int] | Int[np.ndarray, " completions"],
    ) -> list[Grade]:
        """Verdicts on completions, and their rewards.

        Args:
            tokens: of the completions.
            lengths: how many of them are judged.
            asked: the question that each completion answers.

        Raises:
            RewardFailed: the reward function failed on all of its first completions.
            SandboxUnavailable: see `rewarded`.
        """
        texts = self.texts(tokens, lengths)
        problems = [self.questions[i].problem for i in asked]
        if self.reward is not None:
            return self.reward.grades(problems, texts)
        return rewarded(problems, texts, allow_unsandboxed=self.allow_unsandboxed)


class Grading:
    """Grades completions as they end, in a thread, so that it overlaps with decoding; a context manager.

    Args:
        environment: whose questions are answered.
        asked: the question that each completion answers.
        cuts: lengths at which completions are judged, as if they had been cut off there; None judges them whole, once.
    """

    def __init__(self, environment: Environment, asked: Int[np.ndarray, " completions"], cuts: Sequence[int] | None):
        self._environment, self._asked, self._cuts = environment, asked, cuts
        shape = len(asked), len(cuts or (0,))
        self._verdicts, self._values = np.full(shape, "", dtype=object), np.zeros(shape, np.float32)
        self._pending: list[Future[None]] = []
        self._executor = ThreadPoolExecutor(1)

    def add(
        self, numbers: Int[np.ndarray, " ended"], tokens: Int32[np.ndarray, "ended steps"], lengths: Int[np.ndarray, " ended"]
    ) -> None:
        """Completions `numbers` have ended. For `rollout`'s `on_ended`.

        Raises what the grader raised on earlier ones.
        """
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()
        self._pending.append(self._executor.submit(self._judge, numbers, tokens, lengths))

    def _judge(
        self, numbers: Int[np.ndarray, " ended"], tokens: Int32[np.ndarray, "ended steps"], lengths: Int[np.ndarray, " ended"]
    ) -> None:
        ends = lengths[:, None] if self._cuts is None else np.minimum(lengths[:, None], np.array(self._cuts))
        copies = np.repeat(np.arange(len(numbers)), ends.shape[1])
        grades = self._environment.grades(tokens[copies], ends.reshape(-1), self._asked[numbers[copies]])
        self._verdicts[numbers] = np.array([grade.verdict for grade in grades], object).reshape(ends.shape)
        self._values[numbers] = np.array([grade.value for grade in grades], np.float32).reshape(ends.shape)

    def verdicts(self) -> Shaped[np.ndarray, "completions cuts"]:
        """Every verdict, a string; waits for those that are not given yet. Raises what the grader raised."""
        for pending in self._pending:
            pending.result()
        return self._verdicts

    def rewards(self) -> tuple[Float32[np.ndarray, "completions cuts"], Bool[np.ndarray, "completions cuts"]]:
        """In [0, 1], and whether they are known: False for "error", where nothing is known.

        Such a completion must be masked out of the gradient, not taken for a failure.
        """
        known = self.verdicts() != "error"
        return self._values, known.astype(bool)

    def __enter__(self) -> "Grading":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._executor.shutdown(cancel_futures=True)
