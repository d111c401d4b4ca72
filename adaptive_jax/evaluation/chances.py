"""The chance of a right completion, summed instead of estimated from draws.

Where answers are short, a question has few right completions, and their probabilities under a policy can be summed:

    chance = sum over completions y of prod over steps t of sum over actions a of pi(a | y_<t) q_a(y_t | y_<t),

q_a being the distribution that action a draws from. Which completions are right is found by drawing some, once for all
policies, and by writing the known answers. One that is not found so is missing from every policy's sum, so a sum is a lower
bound of the chance; what it lacks is seen from the share of right draws beside it. The formula is the law of total probability;
its use here is ours.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int32

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, Policy
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.sampling import probabilities, summary
from adaptive_jax.decoding.states import last_states
from adaptive_jax.environment import Environment
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.policies.token import TokenAdapter

SIDE_BY_SIDE = 32  # contexts whose distributions are computed at once

Completion = tuple[int, ...]


def right_completions(
    environment: Environment,
    policies: Iterable[Policy],
    budget: int,
    *,
    completions: int,
    seed: int = 0,
    rows: int = 128,
    on_progress: Callable[[int], None] | None = None,
) -> list[set[Completion]]:
    """The different right completions that were found for each question, each with the token that ended it.

    They are those that were drawn, and the problem's own answer as the tokenizer writes it, with and without a space before it,
    where that is right.

    Args:
        environment: Q questions.
        policies: what draws; hotter ones find more.
        budget: token budget of each completion.
        completions: drawn for each question by each policy.
        seed: fixes the draws.
        rows: completions that are decoded side by side.
        on_progress: called now and then, with the number of completions of a policy that have ended.

    Returns:
        Q sets.
    """
    lm, count = environment.lm, len(environment)
    found = _references(environment, budget)
    for policy in policies:
        asked = np.repeat(np.arange(count), completions)
        with environment.grading(asked) as grading:
            trajectory = rollout(
                lm.decoder,
                policy,
                [environment.prompt(index, budget) for index in range(count)],
                key=jax.random.key(seed),
                stop_ids=environment.stop.ids,
                completions=completions,
                rows=rows,
                max_positions=lm.config.max_positions,
                prompt_width=environment.prompt_width,
                on_progress=on_progress,
                on_ended=grading.add,
            )
            rewards, known = grading.rewards()
        trajectory = environment.stop.truncated(trajectory)
        for n in np.flatnonzero((rewards == 1.0)[:, 0] & known[:, 0]).tolist():
            found[asked[n]].add(tuple(trajectory.new_tokens(n).tolist()))
    return found


def _references(environment: Environment, budget: int) -> list[set[Completion]]:
    """The answers of the questions' problems as completions, plain and boxed, where those are right."""
    lm, stop = environment.lm, environment.stop
    found: list[set[Completion]] = [set() for _ in range(len(environment))]
    ends = stop.texts or (lm.tokenizer.decode([lm.stop_ids[0]]),)
    wanted = [
        (number, tuple(lm.tokenizer.encode(space + written + end, add_special_tokens=False)))
        for number, question in enumerate(environment.questions)
        if (answer := question.problem.answer) is not None
        for written in (answer, rf"\boxed{{{answer}}}")
        for space in ("", " ")
        for end in ends
    ]
    wanted = [(number, tokens) for number, tokens in wanted if len(tokens) <= budget and tokens[-1] in stop.ids]
    if not wanted:
        return found
    padded = np.zeros((len(wanted), budget), np.int32)
    for row, (_, tokens) in enumerate(wanted):
        padded[row, : len(tokens)] = tokens
    lengths = np.array([len(tokens) for _, tokens in wanted])
    grades = environment.grades(padded, lengths, [number for number, _ in wanted])
    whole = stop.lengths(padded, lengths) == lengths  # an answer that holds a stop text ends before it is whole
    for (number, tokens), grade, ends_there in zip(wanted, grades, whole, strict=True):
        if ends_there and grade.value == 1.0 and grade.verdict != "error":
            found[number].add(tokens)
    return found


@dataclass(frozen=True)
class RightSteps:
    """The steps of right completions, and what each action makes of them.

    Attributes:
        hidden: that predicts the step's token.
        entropy, top_probability: see `Observation`.
        token: the token before.
        place: number t of the step, from 0.
        drawn: the chance that the action draws what the completion goes on with.
        completion: which completion the step is of, ascending.
        question: of each completion.
        questions: how many there are, those without a right completion included.
        budget: token budget.
        actions: the action space, shape [A].
    """

    hidden: Float32[np.ndarray, "steps width"]
    entropy: Float32[np.ndarray, " steps"]
    top_probability: Float32[np.ndarray, " steps"]
    token: Int32[np.ndarray, " steps"]
    place: Int32[np.ndarray, " steps"]
    drawn: Float32[np.ndarray, "steps actions"]
    completion: Int32[np.ndarray, " steps"]
    question: Int32[np.ndarray, " completions"]
    questions: int
    budget: int
    actions: SamplingParams

    def alone(self, action: int) -> Float64[np.ndarray, " questions"]:
        """Each question's chance where one action is taken at every step."""
        return self._chances(self.drawn[:, action])

    def under(self, policy: TokenAdapter) -> Float64[np.ndarray, " questions"]:
        """Each question's chance under an adapter of the same actions."""
        chosen = jax.nn.softmax(policy.logits(policy.features(self.observation())), axis=-1)
        return self._chances(np.sum(np.asarray(chosen) * self.drawn, axis=-1))

    def observation(self) -> Observation:
        """What a policy sees before each step."""
        return Observation(
            hidden=jnp.asarray(self.hidden),
            remaining=jnp.asarray(self.budget - self.place),
            budget=jnp.full(len(self.place), self.budget, jnp.int32),
            token=jnp.asarray(self.token),
            entropy=jnp.asarray(self.entropy),
            top_probability=jnp.asarray(self.top_probability),
        )

    def _chances(self, drawn: Float[np.ndarray, " steps"]) -> Float64[np.ndarray, " questions"]:
        logs = np.log(np.maximum(drawn.astype(np.float64), 1e-300))
        whole = np.exp(np.bincount(self.completion, logs, len(self.question)))
        return np.minimum(np.bincount(self.question, whole, self.questions), 1.0)


def right_steps(
    environment: Environment, right: Sequence[Collection[Completion]], actions: SamplingParams, budget: int, *, rows: int = 128
) -> RightSteps:
    """What every action makes of the steps of right completions: one forward pass over each of them.

    A completion that a stop token ended stands for all that differ from it in that token alone, and not in their text: a line
    may end by one line feed or by two.

    Args:
        environment: Q questions.
        right: the right completions of each, none of which begins another one, as `right_completions` finds them.
        actions: the action space, shape [A].
        budget: token budget that they were drawn at.
        rows: completions that are computed side by side.

    Raises:
        ValueError: no question has a right completion.
    """
    events = _events(environment, right)
    if not events:
        raise ValueError("no right completion was found: draw more of them, or hotter ones")
    texts = [(*environment.prompt(event.question, budget).tokens, *event.begun) for event in events]
    counts = [len(event.goes_on) for event in events]
    hidden = np.concatenate(last_states(environment.lm.decoder, texts, counts, rows=rows))
    drawn, entropy, top = _drawn(environment, hidden, [tokens for event in events for tokens in event.goes_on], actions)
    return RightSteps(
        hidden=hidden,
        entropy=entropy,
        top_probability=top,
        token=np.concatenate([text[-count:] for text, count in zip(texts, counts, strict=True)]).astype(np.int32),
        place=np.concatenate([np.arange(count) for count in counts]).astype(np.int32),
        drawn=drawn,
        completion=np.repeat(np.arange(len(events)), counts).astype(np.int32),
        question=np.array([event.question for event in events], np.int32),
        questions=len(right),
        budget=budget,
        actions=actions,
    )


def _drawn(
    environment: Environment,
    hidden: Float32[np.ndarray, "steps width"],
    goes_on: Sequence[frozenset[int]],
    actions: SamplingParams,
) -> tuple[Float32[np.ndarray, "steps actions"], Float32[np.ndarray, " steps"], Float32[np.ndarray, " steps"]]:
    """The chance that each action draws one of the tokens that a step goes on with; and entropies and top probabilities."""
    different = {tokens: n for n, tokens in enumerate(dict.fromkeys(goes_on))}
    members = np.zeros((len(different), max(map(len, different))), np.int32)
    weights = np.zeros(members.shape, np.float32)
    for tokens, n in different.items():
        members[n, : len(tokens)], weights[n, : len(tokens)] = sorted(tokens), 1.0
    group = np.array([different[tokens] for tokens in goes_on])
    found = []
    for start in range(0, len(hidden), SIDE_BY_SIDE):
        own = np.minimum(np.arange(start, start + SIDE_BY_SIDE), len(hidden) - 1)  # the last batch is filled up
        parts = _chances_of(environment.lm.decoder, actions, hidden[own], members[group[own]], weights[group[own]])
        found.append([np.asarray(part) for part in parts])
    drawn, entropy, top = (np.concatenate(parts)[: len(hidden)] for parts in zip(*found, strict=True))
    return drawn, entropy, top


@jax.jit
def _chances_of(
    decoder: Decoder,
    actions: SamplingParams,
    hidden: Float32[Array, "rows width"],
    members: Int32[Array, "rows tokens"],
    weights: Float32[Array, "rows tokens"],
) -> tuple[Float32[Array, "rows actions"], Float32[Array, " rows"], Float32[Array, " rows"]]:
    logits = decoder.logits(hidden)

    def one(action: SamplingParams) -> Float32[Array, " rows"]:
        return jnp.sum(jnp.take_along_axis(probabilities(logits, action), members, axis=-1) * weights, axis=-1)

    # one action after the other: the distributions of all of them would not fit
    drawn = jax.lax.map(one, actions)
    return drawn.T, *summary(logits)


@dataclass(frozen=True)
class _Event:
    """A right completion, or several that differ in the token that ends them.

    Attributes:
        question: that it answers.
        begun: its tokens but the last.
        goes_on: for each of its steps the tokens any of which belongs to it.
    """

    question: int
    begun: Completion
    goes_on: tuple[frozenset[int], ...]


def _events(environment: Environment, right: Sequence[Collection[Completion]]) -> list[_Event]:
    ends = environment.stop.ids
    found: dict[_Event, None] = {}  # in order, and each once
    for question, completions in enumerate(right):
        for tokens in sorted(completions):
            goes_on = [frozenset([token]) for token in tokens]
            if tokens[-1] in ends:
                goes_on[-1] = _same_text(environment, tokens[:-1], tokens[-1])
            found[_Event(question, tokens[:-1], tuple(goes_on))] = None
    return list(found)


def _same_text(environment: Environment, begun: Completion, end: int) -> frozenset[int]:
    """The stop tokens that end a completion with the same text as `end` does."""
    ends = environment.stop.ids
    tokens = np.array([[*begun, token] for token in (end, *ends)], np.int32)
    text, *texts = environment.texts(tokens, np.full(len(tokens), tokens.shape[1]))
    return frozenset([end, *(token for token, other in zip(ends, texts, strict=True) if other == text)])
