"""The figures of the experiments."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adaptive_jax.evaluation.results import MEAN, Row
from adaptive_jax.evaluation.tables import HELD_OUT, SELECTED_ON


def training_figure(
    path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], actions: Sequence[str], smooth: int = 5
) -> None:
    """Action probabilities at decisions over training, with the validation reward laid over them; one panel per adapter.

    Args:
        path: where the PNG goes.
        curves: for each adapter, the lines of metrics.jsonl of its first seed: "update", "action_probabilities" [A] and,
            at some updates, "validation_reward".
        actions: names of the A actions.
        smooth: updates in the running mean of the probabilities.
    """
    figure = Figure(figsize=(3.8 * len(curves) + 1.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for panel, (name, lines) in zip(panels, curves.items(), strict=True):
        updates = np.array([line["update"] for line in lines if "action_probabilities" in line])
        shares = np.array([line["action_probabilities"] for line in lines if "action_probabilities" in line])
        if len(shares) >= smooth:
            kernel = np.ones(smooth) / smooth
            shares = np.stack([np.convolve(column, kernel, "valid") for column in shares.T], axis=1)
            updates = updates[smooth - 1 :]
        panel.stackplot(updates, shares.T, labels=actions, alpha=0.75)
        points = [(line["update"], line["validation_reward"]) for line in lines if "validation_reward" in line]
        panel.plot(*zip(*points, strict=True), "ko-", markersize=3, linewidth=1.2, label="validation reward")
        panel.set(title=name, xlabel="update", ylim=(0, 1), xlim=(1, max(updates[-1], 2)))
    panels[0].set_ylabel("action probability, reward")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize="x-small", loc="outside right center")
    figure.savefig(path, dpi=150)


def budget_figure(path: Path, rows: Sequence[Row], trained: Collection[str] = ()) -> None:
    """Accuracy against token budget, bars for the binomial 95% interval; a line per method, solid for those `trained`."""
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    panel = figure.subplots()
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method and row.budget != MEAN]
        panel.errorbar(
            [row.budget for row in own],
            [row.value for row in own],
            yerr=[row.ci95 for row in own],
            label=method,
            capsize=2,
            linewidth=2.2 if method in trained else 1.1,
            linestyle="-" if method in trained else "--",
            marker="o",
            markersize=4,
        )
    panel.set(xlabel="token budget b", ylabel="Pass@1", ylim=(0, 1), xticks=sorted({row.budget for row in rows} - {MEAN}))
    figure.legend(fontsize="x-small", loc="outside right center")
    figure.savefig(path, dpi=150)


def coverage_figure(path: Path, rows: Sequence[Row]) -> None:
    """Coverage against the number of settings N; held-out problems beside those that the settings were selected on."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    metrics = {row.metric for row in rows}
    for panel, title, metric in zip(
        panels, ("held-out problems", "problems selected on"), (HELD_OUT, SELECTED_ON), strict=True
    ):
        counts = [count for count in range(1, len(rows) + 1) if metric.format(count) in metrics]
        for method in dict.fromkeys(row.method for row in rows):
            own = {row.metric: row for row in rows if row.method == method}
            points = [own[metric.format(count)] for count in counts]
            values, bars = [row.value for row in points], [row.ci95 for row in points]
            panel.errorbar(counts, values, yerr=bars, label=method, capsize=2, marker="o", markersize=4)
        panel.set(title=title, xlabel="settings N", xticks=counts)
    panels[0].set_ylabel("coverage")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def pass_figure(path: Path, rows: Sequence[Row], trained: Collection[str] = ()) -> None:
    """Pass@k against k, a panel for each way of asking; solid lines for methods that are `trained`."""
    cots = list(dict.fromkeys(row.cot for row in rows))
    figure = Figure(figsize=(3.4 * len(cots) + 2.0, 3.6), layout="constrained")
    panels = figure.subplots(1, len(cots), sharey=True, squeeze=False)[0]
    for panel, cot in zip(panels, cots, strict=True):
        for method in dict.fromkeys(row.method for row in rows):
            values = [row.value for row in rows if (row.method, row.cot) == (method, cot)]
            solid = method in trained
            counts = range(1, len(values) + 1)
            panel.plot(counts, values, "o-" if solid else "o--", label=method, markersize=3, linewidth=2.0 if solid else 1.0)
        panel.set(title=f"CoT {cot}", xlabel="k", xticks=list(counts), ylim=(0, 1))
    panels[0].set_ylabel("Pass@k")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize="x-small", loc="outside right center")
    figure.savefig(path, dpi=150)
