"""The training loop: rollouts under the current policy, rewards from a grader, one update by REINFORCE or LPO, again.

Which prompts, budgets and keys an update uses follows from the settings and its number alone, never from what the process
did before.
"""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Bool, Float, Float32, Int, UInt8

from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.digest import tree_digest
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.learning.constant import constant_token_adapter
from adaptive_jax.learning.lpo import Rule, best_against_worst, lpo_update
from adaptive_jax.learning.reinforce import Metrics, pad_decisions, pass_advantages, reinforce_update
from adaptive_jax.parallel import Replicas, rows_here, share, total
from adaptive_jax.policies.token import TokenAdapter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """How a policy is trained. None of these numbers is stated by the paper.

    Attributes:
        updates: policy-gradient updates.
        prompts: prompts per update.
        completions: G, completions per prompt, at least 2 for a leave-one-out baseline.
        budgets: token budgets b, in tokens; each prompt of an update draws one.
        epochs: steps of the optimiser on the completions of an update; 1 is REINFORCE itself. More make each completion count
            for more, and the ratio to the policy that drew it is clipped (reinforce).
        clip: epsilon of that ratio.
        learning_rate: of Adam.
        entropy_bonus: weight of the policy's entropy at the start, for decisions of prompts whose rewards differ; it falls
            linearly to a tenth at the end (reinforce).
        rule: "reinforce", or "lpo": preferences between the best and the worst completion of each prompt.
        samples: B; the reward that reinforce follows is Pass@B of a prompt's completions, B at most G - 1.
        beta: how far preferences move the policy (lpo).
        validate_every: updates between two validations; the last update is validated, too.
        max_skipped: updates in a row that may be skipped for a reward, feature, loss or gradient that is not finite.
        rows: how many completions are decoded side by side.
        seed: fixes the prompts, the budgets and every draw.
    """

    updates: int = 60
    prompts: int = 32
    completions: int = 8
    budgets: tuple[int, ...] = (1024,)
    epochs: int = 4
    clip: float = 0.2
    learning_rate: float = 2e-3
    entropy_bonus: float = 0.01
    rule: Rule = "reinforce"
    samples: int = 1
    beta: float = 0.1
    validate_every: int = 10
    max_skipped: int = 5
    rows: int = 128
    seed: int = 0


class GradedRewards(ValueError):
    """Pass@B is the chance that one of B completions is right, and a graded reward doesn't say which are."""


class TrainingDiverged(RuntimeError):
    """Too many updates in a row met a reward, feature, loss or gradient that is not finite.

    Attributes:
        batch: the rollouts of the last of them: questions, budgets, tokens, lengths, actions, decisions, features, rewards.
    """

    def __init__(self, message: str, batch: dict[str, np.ndarray]):
        super().__init__(message)
        self.batch = batch


@struct.dataclass
class TrainState:
    """All that decides how a training goes on, besides its questions and settings.

    Attributes:
        adapter: the policy as it is.
        opt_state: of Adam.
        update: how many updates are done.
        skipped: how many of them were skipped in a row, up to the last.
        total_skipped: how many were skipped at all.
        best: the policy that validated best so far, at first the best constant action; without validation problems, the policy
            as it is.
        best_reward: what it validated at; -inf before the first validation.
        next_batch_digest: SHA-256 of what the next update draws: its questions in their order, their budgets and
            its key. It follows from the settings and is here to be compared.
    """

    adapter: TokenAdapter
    opt_state: optax.OptState
    update: int
    skipped: int
    total_skipped: int
    best: TokenAdapter
    best_reward: Float[np.ndarray, ""]
    next_batch_digest: UInt8[np.ndarray, " 32"]


def first_state(adapter: TokenAdapter, settings: TrainSettings, questions: int) -> TrainState:
    """Before the first update of a training on so many questions.

    Raises:
        ValueError: no question, no epoch, fewer than 2 completions per prompt, or not more of them than the reward's samples.
    """
    if questions < 1:
        raise ValueError("there are no questions to train on")
    if settings.completions < 2:
        raise ValueError(f"completions is {settings.completions}: a leave-one-out baseline needs at least 2")
    if settings.epochs < 1:
        raise ValueError(f"epochs is {settings.epochs}: give at least 1, which is REINFORCE itself")
    if not 1 <= settings.samples < settings.completions:
        raise ValueError(f"samples is {settings.samples}: give 1 to {settings.completions - 1}, one less than the completions")
    opt_state = adam(settings.learning_rate).init(adapter.params)
    nothing = np.array(-np.inf)
    return TrainState(adapter, opt_state, 0, 0, 0, adapter, nothing, next_batch_digest(questions, settings, 0))


def next_batch_digest(questions: int, settings: TrainSettings, update: int) -> UInt8[np.ndarray, " 32"]:
    """What an update draws, as a digest (`TrainState.next_batch_digest`), after `update` updates."""
    asked, budgets = draw_questions(questions, settings, update + 1)
    drawn = (asked, budgets, jax.random.key_data(_key(settings, update + 1)))
    return np.frombuffer(bytes.fromhex(tree_digest(drawn)), np.uint8)


def train(
    environment: Environment,
    state: TrainState,
    settings: TrainSettings,
    *,
    validation: Environment | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train an adapter; yields the state after every update, with the update's metrics.

    Args:
        environment: the training questions.
        state: where to start: `first_state`, or a later one, from which the same states follow as before.
        settings: see `TrainSettings`.
        validation: questions to choose the best state by, see `TrainState.best`; the first update, every `validate_every`-th
            and the last are validated, and their metrics have "validation_reward". Each action alone is validated before the
            first, whose metrics have "validation_by_action": a policy that is not above the best of them is not kept.
        on_progress: called now and then during an update, with the number of its completions that have ended.

    Raises:
        TrainingDiverged: more than `max_skipped` updates in a row were not finite.
        GradedRewards: a reward is neither 0 nor 1, and `samples` is above 1.
        RewardFailed: the reward function failed on all of its first completions.
        FloatingPointError: the language model's logits were not finite.
    """
    optimizer, replicas = adam(settings.learning_rate), Replicas.of(environment.lm.decoder)
    alone: Metrics = {}
    if validation is not None and state.update == 0:
        constants = [constant_token_adapter(state.adapter, action) for action in range(len(state.adapter.actions))]
        reached = [validate(validation, constant, settings, on_progress) for constant in constants]
        alone = {"validation_by_action": reached}
        state = dataclasses.replace(state, best=constants[int(np.argmax(reached))], best_reward=np.array(max(reached)))
    for update in range(state.update + 1, settings.updates + 1):
        asked, budgets = draw_questions(len(environment), settings, update)
        trajectory, rewards, valid = collect(environment, state.adapter, settings, asked, budgets, update, on_progress)
        check_binary(rewards[valid], settings.samples)
        completion, step = np.nonzero(trajectory.decisions)
        known = valid.reshape(-1)[completion]  # where the grader failed, a completion has no place in the gradient
        completion, features = completion[known], trajectory.features[known]
        actions = trajectory.actions[completion, step[known]]
        learner = (state.adapter, state.opt_state)
        if settings.rule == "lpo":
            pairs = best_against_worst(features, actions, completion, rewards, valid)
            learned = replicas.update(
                lpo_update, learner, pairs, beta=settings.beta, optimizer=optimizer, epochs=settings.epochs
            )
        else:
            advantages = pass_advantages(rewards, valid, settings.samples)
            batch = pad_decisions(features, actions, advantages.reshape(-1)[completion])
            # A prompt whose completions all fare alike has no advantage. Where successes are rare that is most prompts, and the
            # bonus would outweigh what the others teach: so it weighs as much as there are decisions that teach.
            teach = (advantages != 0).any(axis=1)[completion // settings.completions]
            taught, decided = total(np.array([teach.sum(), max(len(teach), 1)], float))
            bonus = settings.entropy_bonus * (1.0 - 0.9 * (update - 1) / max(settings.updates - 1, 1)) * taught / decided
            steps = {"epochs": settings.epochs, "clip": settings.clip if settings.epochs > 1 else None}
            learned = replicas.update(reinforce_update, learner, batch, jnp.float32(bonus), optimizer=optimizer, **steps)
        adapter, opt_state, metrics = learned
        values = {"reward": rewards[valid], "feature": features, "loss": metrics["loss"]}
        values["gradient"] = metrics["gradient_norm"]
        unsound = total(np.array([not np.isfinite(value).all() for value in values.values()], int))
        bad = [name for name, processes in zip(values, unsound, strict=True) if processes]
        if bad:
            adapter, opt_state = state.adapter, state.opt_state
            skipped = state.skipped + 1
            log.warning("update %d was skipped: not finite: %s (%d in a row)", update, ", ".join(bad), skipped)
            if skipped > settings.max_skipped:
                own = share(len(asked))
                raise TrainingDiverged(
                    f"{skipped} updates in a row were skipped, the last one update {update}; not finite: {', '.join(bad)}. "
                    "Lower the learning rate, or look at the features and rewards",
                    _batch(trajectory, asked[own], budgets[own], rewards, valid),
                )
        best, best_reward, validated = adapter, state.best_reward, alone if update == 1 else {}
        if validation is not None:
            best = state.best
            if update % settings.validate_every == 0 or update in (1, settings.updates):
                reward = validate(validation, adapter, settings, on_progress)
                validated = validated | {"validation_reward": reward}
                if reward > best_reward:
                    best, best_reward = adapter, np.array(reward)
        state = TrainState(
            adapter,
            opt_state,
            update,
            skipped=skipped if bad else 0,
            total_skipped=state.total_skipped + bool(bad),
            best=best,
            best_reward=best_reward,
            next_batch_digest=next_batch_digest(len(environment), settings, update),
        )
        counted = {
            "reward": (rewards * valid).sum(),
            "known": valid.sum(),
            "completions": valid.size,
            "decisions": len(known),
            "new_tokens": trajectory.lengths.sum(),
            "row_steps": trajectory.row_steps,
        }
        sums = dict(zip(counted, total(np.array(list(counted.values()), float)).tolist(), strict=True))
        yield (
            state,
            {
                "update": update,
                "reward": sums["reward"] / max(sums["known"], 1),
                "grader_errors": int(sums["completions"] - sums["known"]),
                "skipped_updates": state.total_skipped,
                "decisions": int(sums["decisions"]),
                "new_tokens": sums["new_tokens"] / sums["completions"],
                "useful_row_steps": sums["new_tokens"] / sums["row_steps"],
                **{name: np.asarray(value).tolist() for name, value in metrics.items()},
                **validated,
                "applied": not bad,
            },
        )


def check_binary(rewards: Float[np.ndarray, "*completions"], samples: int) -> None:
    """Raises GradedRewards where the reward is Pass@B, B = `samples` above 1, and rewards are neither 0 nor 1."""
    between = rewards[(rewards != 0.0) & (rewards != 1.0)]
    if samples > 1 and between.size:
        raise GradedRewards(
            f"a reward is {between[0]:.3g}, and the training is for Pass@{samples}, the chance that one of {samples} "
            "completions is right, which graded rewards don't say: train for samples = 1, or let rewards be 0 or 1"
        )


def _batch(
    trajectory: Trajectory, asked: np.ndarray, budgets: np.ndarray, rewards: np.ndarray, valid: np.ndarray
) -> dict[str, np.ndarray]:
    """The rollouts of an update, for a file."""
    per_step = {name: getattr(trajectory, name) for name in ("tokens", "lengths", "actions", "decisions")}
    features = trajectory.features.astype(np.float32)  # NumPy's files know no bfloat16
    return {"questions": asked, "budgets": budgets, "rewards": rewards, "valid": valid, "features": features, **per_step}


@functools.cache
def adam(learning_rate: float) -> optax.GradientTransformation:
    """The same object for the same rate: it is static in a jitted function, and another one would be compiled again."""
    return optax.adam(learning_rate)


def validate(
    environment: Environment,
    policy: Policy,
    settings: TrainSettings,
    on_progress: Callable[[int], None] | None = None,
) -> float:
    """Pass@B of a policy, B the reward's samples, from 4 B completions per question; the budgets take turns.

    All subsets of B completions count (`pass_at_k`): a single one is right or wrong, which tells policies apart too roughly to
    choose among them. A question counts for as much as it has completions whose reward is known, and not at all where they are
    less than B. Every call has the same draws, which no update has.
    """
    asked, samples = np.arange(len(environment)), settings.samples
    budgets = np.resize(settings.budgets, len(asked))
    several = dataclasses.replace(settings, completions=4 * samples)
    _, rewards, valid = collect(environment, policy, several, asked, budgets, 0, on_progress)
    known = valid.sum(axis=1)
    if samples == 1:  # graded rewards, too
        solved = (rewards * valid).sum(axis=1)
    else:
        known = np.where(known >= samples, known, 0)
        pairs = zip(rewards, valid, known, strict=True)
        solved = np.array([count and count * pass_at_k(reward[own] == 1.0, samples) for reward, own, count in pairs])
    right, count = total(np.array([solved.sum(), known.sum()], float))
    return float(right / max(count, 1))


def draw_questions(
    questions: int, settings: TrainSettings, update: int
) -> tuple[Int[np.ndarray, " prompts"], Int[np.ndarray, " prompts"]]:
    """Of so many questions those of an update, and their token budgets.

    Questions come in a new random order every epoch; an epoch's end and the next one's start may share an update.
    """
    places = np.arange((update - 1) * settings.prompts, update * settings.prompts)
    epochs = np.unique(places // questions)
    orders = {e: np.random.default_rng([settings.seed, 1, e]).permutation(questions) for e in epochs}
    asked = np.array([orders[p // questions][p % questions] for p in places])
    return asked, np.random.default_rng([settings.seed, 2, update]).choice(settings.budgets, len(asked))


def _key(settings: TrainSettings, update: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(settings.seed), update)


def collect(
    environment: Environment,
    policy: Policy,
    settings: TrainSettings,
    asked: Int[np.ndarray, " asked"],
    budgets: Int[np.ndarray, " asked"],
    update: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Trajectory, Float32[np.ndarray, "prompts group"], Bool[np.ndarray, "prompts group"]]:
    """Rollouts of questions `asked`: of this process's share of them.

    Returns:
        The trajectory of all completions, and their rewards, where valid.
    """
    lm = environment.lm
    prompts, seen = [], Counter[int]()
    for index, budget in zip(asked.tolist(), budgets.tolist(), strict=True):
        # a question that comes twice goes on counting its completions, so that its draws differ
        first = seen[index] * settings.completions
        prompts.append(dataclasses.replace(environment.prompt(index, budget), first_completion=first))
        seen[index] += 1
    own = share(len(asked))
    with environment.grading(np.repeat(asked[own], settings.completions)) as grading:
        trajectory = rollout(
            lm.decoder,
            policy,
            [prompts[i] for i in own],
            key=_key(settings, update),
            stop_ids=environment.stop.ids,
            completions=settings.completions,
            rows=rows_here(settings.rows),
            max_positions=lm.config.max_positions,
            prompt_width=environment.prompt_width,
            on_progress=on_progress,
            on_ended=grading.add,
        )
        rewards, valid = grading.rewards()
    trajectory = environment.stop.truncated(trajectory)
    shape = (len(own), settings.completions)
    return trajectory, rewards.reshape(shape), valid.reshape(shape)
