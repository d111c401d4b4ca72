"""The figures of a report, from what a run's files hold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adaptive_jax.evaluation.results import MEAN
from adaptive_jax.report.contents import RunContents
from adaptive_jax.report.svg import Point, line_chart, scatter_chart, stacked_chart

SMOOTH = 5  # updates in the running mean of action probabilities
WORDS = 12  # tokens told for each action
FEWEST = 5  # steps behind a mean that is shown
PRIOR = 50.0  # pseudo-counts of the prior in log-odds


def figures(run: RunContents) -> list[str]:
    """SVG figures with their captions; those whose data a run lacks are left out."""
    found = [*_accuracy(run), *_training(run)]
    for cot, behaviour in run.behaviour.items():
        found += _behaviour(cot, behaviour)
    return [figure for figure in found if figure]


def _accuracy(run: RunContents) -> list[str]:
    """Pass@1 against the budget and against mean tokens where there are several budgets, else Pass@k against k."""
    charts = []
    cots = list(dict.fromkeys(row["cot"] for row in run.rows))
    for cot in cots:
        rows = [row for row in run.rows if row["cot"] == cot and row["budget"] != MEAN]
        budgets = sorted({row["budget"] for row in rows})
        for budget in budgets:
            curves: dict[str, list[Point]] = {}
            for row in rows:
                kind, _, k = row["metric"].partition("@")
                if kind == "pass" and k.isdecimal() and row["budget"] == budget:
                    curves.setdefault(row["method"], []).append((int(k), 100 * row["value"], 100 * row["ci95"]))
            if max(map(len, curves.values()), default=0) > 2:
                charts.append(line_chart(f"Pass@k, CoT {cot}, budget {budget}", "k", "per cent", curves, top=100))
        if len(budgets) > 1:
            metric = "reward" if any(row["metric"] == "reward" for row in rows) else "pass@1"
            own = [row for row in rows if row["metric"] == metric]
            lines: dict[str, list[Point]] = {}
            for row in own:
                lines.setdefault(row["method"], []).append((row["budget"], 100 * row["value"], 100 * row["ci95"]))
            charts.append(line_chart(f"{metric.capitalize()}, CoT {cot}", "token budget b", "per cent", lines, top=100))
            charts.append(_bought(cot, own, run.behaviour.get(cot, {})))
    return charts


def _bought(cot: str, rows: Sequence[Mapping[str, Any]], behaviour: Mapping[str, Mapping[str, Any]]) -> str:
    """What a token buys: accuracy against the mean number of tokens used."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        known = behaviour.get(row["method"])
        if known and row["budget"] in known["budgets"]:
            used = known["mean_tokens"][known["budgets"].index(row["budget"])]
            lines.setdefault(row["method"], []).append((used, 100 * row["value"], 100 * row["ci95"]))
    return line_chart(f"What tokens buy, CoT {cot}", "mean tokens used", "per cent", lines, top=100)


def _training(run: RunContents) -> list[str]:
    charts = []
    names = next((line["actions"] for line in run.metrics if "actions" in line), None)
    for label, lines in run.training.items():
        shares = _running([line["action_probabilities"] for line in lines])
        updates = [line["update"] for line in lines][len(lines) - len(shares) :]
        columns = list(zip(*shares, strict=True))
        own = names if names and len(names) == len(columns) else [f"action {number}" for number in range(len(columns))]
        watched = [(line["update"], line["validation_reward"], 0.0) for line in lines if "validation_reward" in line]
        title = f"Action probabilities at decisions during training, and validation reward (line): {label}"
        charts.append(stacked_chart(title, "update", updates, dict(zip(own, columns, strict=True)), watched))
    return charts


def _running(shares: Sequence[Sequence[float]]) -> list[list[float]]:
    if len(shares) < 2 * SMOOTH:
        return [list(share) for share in shares]
    windows = (shares[start : start + SMOOTH] for start in range(len(shares) - SMOOTH + 1))
    return [[sum(column) / SMOOTH for column in zip(*window, strict=True)] for window in windows]


def _behaviour(cot: str, behaviour: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lengths by method, and for policies of several actions what was taken by remaining budget."""
    charts = []
    lengths: dict[str, list[Point]] = {}
    for method, known in behaviour.items():
        edges, counts = known["lengths"]["edges"], known["lengths"]["counts"]
        whole = sum(counts) or 1
        lengths[method] = [
            ((low + high) / 2, 100 * count / whole, 0.0) for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ]
    charts.append(
        line_chart(f"Lengths of completions, CoT {cot}, at the largest budget", "tokens", "per cent of completions", lengths)
    )
    for method, known in behaviour.items():
        if len(known["actions"]) > 1:
            edges, counts = known["remaining"]["edges"], known["remaining"]["counts"]
            bins = [((low + high) / 2, row) for low, high, row in zip(edges, edges[1:], counts, strict=False) if sum(row)]
            shares = {name: [row[number] / sum(row) for _, row in bins] for number, name in enumerate(known["actions"])}
            title = f"Actions at decisions by the tokens that are left of the budget, CoT {cot}: {method}"
            charts.append(stacked_chart(title, "tokens left", [at for at, _ in bins], shares))
    return charts + _modulation(cot, behaviour)


def _modulation(cot: str, behaviour: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How actions change entropy: on average, for each policy of several actions, and for those of one action together."""
    shifts: dict[str, list[Point]] = {}
    one: dict[str, list[Point]] = {}
    charts = []
    for method, known in behaviour.items():
        told = known.get("modulation")  # older runs have none
        if not told:
            continue
        bins = zip(told["before"], told["shift"], told["counts"], strict=True)
        shifts[method] = [(before, shift, 0.0) for before, shift, count in bins if count >= FEWEST]
        if len(known["actions"]) == 1:
            one[method] = [(before, after, 0.0) for before, after, _ in told["points"]]
            continue
        dots: dict[str, list[Point]] = {name: [] for name in known["actions"]}
        for before, after, action in told["points"]:
            dots[known["actions"][action]].append((before, after, 0.0))
        title = f"Entropy before the action and of the distribution drawn from, each step, CoT {cot}: {method}"
        charts.append(scatter_chart(title, "before, nats", "after, nats", dots, diagonal=True))
    title = f"Mean shift of entropy by an action, by the entropy before it, CoT {cot}"
    together = f"Entropy before the action and of the distribution drawn from, each step, CoT {cot}: static settings"
    return [
        line_chart(title, "before, nats", "after minus before, nats", shifts),
        *charts,
        scatter_chart(together, "before, nats", "after, nats", one, diagonal=True),
    ]


def favourite_tokens(behaviour: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """For each action, the tokens at which it is most over-represented, with z-scores of their log-odds, the largest first.

    Source: log-odds ratio with an informative Dirichlet prior (Monroe et al., 2008, eq. 16 and 22); the prior is the counts of
    all actions together, scaled to `PRIOR` pseudo-counts.
    """
    tokens = behaviour["tokens"]
    totals = [sum(column) for column in zip(*(counts for _, counts in tokens), strict=True)] or [0]
    everything = sum(totals)
    found: dict[str, list[tuple[str, float]]] = {}
    for number, name in enumerate(behaviour["actions"]):
        scored = []
        for text, counts in tokens:
            own, others = counts[number], sum(counts) - counts[number]
            prior = PRIOR * sum(counts) / everything
            rest, before = everything - totals[number], PRIOR
            inside = (own + prior) / (totals[number] + before - own - prior)
            outside = (others + prior) / (rest + before - others - prior)
            z = (math.log(inside) - math.log(outside)) / math.sqrt(1 / (own + prior) + 1 / (others + prior))
            if own and z > 1.96:
                scored.append((text, z))
        found[name] = sorted(scored, key=lambda pair: -pair[1])[:WORDS]
    return found
