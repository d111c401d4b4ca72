"""A tour of the library in two minutes: read it from top to bottom, and run it.

Usage: python -m experiments.tour
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import adaptive_jax as aj
from experiments.launching import launch

BUDGET = 96  # tokens that a completion may use


@dataclass(frozen=True)
class Config:
    """Flags of the tour.

    Attributes:
        updates: policy-gradient updates; 20 take about a minute.
        limit: held-out problems for the comparison at the end.
        seed: fixes every draw.
    """

    updates: int = 20
    limit: int = 200
    seed: int = 0


def main(config: Config) -> None:
    # 1. A frozen language model, and problems that a program can grade.
    lm = aj.load_lm("tiny")
    problem = aj.load_problems("arithmetic", split="test", limit=1)[0]
    prompt = aj.prompt(lm, problem)
    print(f"1. The problem is {problem.question!r}, its answer {problem.answer}. The model is asked:\n\n{prompt}")

    # 2. One prompt under three settings. The draws depend on the seed and the prompt only, so what differs is the setting.
    print("\n2. Four completions under each of three temperatures:\n")
    for temperature in (0.0, 0.5, 1.25):
        (group,) = aj.generate(lm, [prompt], aj.static(temperature=temperature), n=4, max_new_tokens=BUDGET, seed=config.seed)
        for done in group:
            print(f"   {temperature:4}  {aj.grade(problem, done.text):12} {len(done.tokens):3} tokens  {shortened(done.text)}")

    # 3. Where is there something to choose? Where the distribution of the next token has entropy.
    done = aj.generate(lm, [prompt], aj.static(temperature=0.5), max_new_tokens=BUDGET, seed=config.seed)[0][0]
    print("\n3. The tokens of one completion whose distribution has more than 0.3 nats of entropy:\n")
    for position, entropy in enumerate(entropies(lm, prompt, done.tokens)):
        if entropy > 0.3:
            before, drawn = (lm.tokenizer.decode(part) for part in np.split(done.tokens[: position + 1], [position]))
            print(f"   {entropy:.2f} nats after {shortened(before, 24)}: drawn {drawn!r}")

    # 4. A token adapter sees the hidden state and the tokens left. It learns from "was the answer right" alone.
    print(f"\n4. Training a token adapter with {config.updates} updates:\n")
    train = aj.Environment(lm, aj.load_problems("arithmetic", split="train", limit=512), "all")
    adapter, history = aj.train(train, budgets=(48, BUDGET), updates=config.updates, seed=config.seed)
    for line in history[:: max(config.updates // 5, 1)]:
        print(f"   update {line['update']:3}: mean reward {line['reward']:.2f}")

    # 5. Held-out problems, the same draws for every policy.
    print(f"\n5. Pass@1 in per cent on {config.limit} held-out problems at token budgets of 48 and {BUDGET}:\n")
    test = aj.Environment(lm, aj.load_problems("arithmetic", split="test", limit=config.limit), "all")
    policies = {f"temperature {t}": aj.static(temperature=t) for t in (0.0, 0.5, 1.0, 1.25)} | {"token adapter": adapter}
    for name, policy in policies.items():
        found = aj.evaluate(test, policy, budgets=(48, BUDGET), seed=config.seed).pass_at(1).mean(axis=0)
        print(f"   {name:16} {100 * found[0]:5.1f} {100 * found[1]:5.1f}")

    # 6. What it does: which action drew each token.
    done = aj.generate(lm, [prompt], adapter, max_new_tokens=BUDGET, seed=config.seed)[0][0]
    names = [f"T={float(temperature):g}" for temperature in np.asarray(adapter.actions.temperature)]
    print("\n6. A completion under the adapter; in brackets, the actions of tokens that were not drawn greedily:\n")
    print("   " + "".join(marked(lm, done, names)).replace("\n", "\n   "))


def entropies(lm: aj.LM, prompt: str, tokens: np.ndarray) -> np.ndarray:
    """float [T], nats: the entropy of the model's distribution of each completion token, int32 [T], before any setting."""
    start = lm.tokenizer.encode(prompt, add_special_tokens=False)
    text = jnp.asarray([[*start, *tokens.tolist()]], jnp.int32)
    logits, _ = lm(text, jnp.ones(text.shape, bool))
    logs = jax.nn.log_softmax(logits[0, len(start) - 1 : -1])
    return np.asarray(-jnp.sum(jnp.exp(logs) * logs, axis=-1))


def marked(lm: aj.LM, done: aj.Completion, names: list[str]) -> list[str]:
    """The tokens of a completion, with the names of their actions but for the first, which is greedy."""
    pairs = zip(done.tokens, done.actions, strict=True)
    return [lm.tokenizer.decode([token]) + (f"[{names[action]}]" if action else "") for token, action in pairs]


def shortened(text: str, width: int = 60) -> str:
    """The end of a text, in one line."""
    return repr(text if len(text) <= width else f"..{text[-width:]}")


if __name__ == "__main__":
    launch(main, Config, __doc__)
