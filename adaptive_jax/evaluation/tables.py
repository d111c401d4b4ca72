"""The tables of the sequence-level experiments, in Markdown."""

from collections.abc import Mapping, Sequence

from adaptive_jax.evaluation.results import Gain, Row, table_line

SELECTED_ON, HELD_OUT = "coverage@{}, selected on", "coverage@{}"


def coverage_table(rows: Sequence[Row], names: Mapping[str, Sequence[str]], model: str, dataset: str) -> str:
    """N down, the two selections across, in per cent; below it the settings in the order in which they were chosen.

    Args:
        rows: metrics `SELECTED_ON` and `HELD_OUT` for N = 1, 2, ... of two methods.
        names: the settings of each method.
        model, dataset: what the numbers belong to.
    """
    found = {(row.method, row.metric): row for row in rows}
    first, second = names
    held_out, selected = found[first, HELD_OUT.format(1)], found[first, SELECTED_ON.format(1)]
    lines = [
        f"{model} on {dataset}, CoT {held_out.cot}, token budget {held_out.budget}: coverage, which is the mean Pass@B of each "
        f"problem's best setting over B = 1, 2, 4, 8, in per cent ± half the binomial 95% interval, on {held_out.n} held-out "
        f"problems; the difference with its paired bootstrap 95% interval. In brackets, coverage of the {selected.n} problems "
        "that the settings were selected on, which is optimistic.",
        "",
        table_line(["N", first, second, "difference"]),
        table_line(["--:"] * 4),
    ]
    for count in range(1, len(names[first]) + 1):
        cells = [str(count)]
        for method in names:
            row = found[method, HELD_OUT.format(count)]
            cells.append(f"{percent(row)} ({100 * found[method, SELECTED_ON.format(count)].value:.1f})")
        lines.append(table_line([*cells, points(found[first, HELD_OUT.format(count)].gain)]))
    lines.append("")
    lines += [f"{method}: {'; '.join(settings)}  " for method, settings in names.items()]
    return "\n".join(lines) + "\n"


def pass_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Metric and CoT down, methods across, in per cent; each method's gain over its baseline in brackets below its value.

    Args:
        rows: of one model, data set and token budget.
        metrics: those that are shown, such as "pass@1".
    """
    found = {(row.method, row.cot, row.metric): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = [table_line(["metric", "CoT", *methods]), table_line([":--", ":--", *["--:"] * len(methods)])]
    for metric in metrics:
        for cot in dict.fromkeys(row.cot for row in rows):
            own = [found[method, cot, metric] for method in methods]
            lines.append(table_line([metric.capitalize(), cot, *map(percent, own)]))
            lines.append(table_line(["", "", *(points(row.gain) for row in own)]))
    return "\n".join(lines) + "\n"


def pass_caption(model: str, dataset: str, rows: Sequence[Row]) -> str:
    """What the numbers of a `pass_table` are."""
    first, seeds = rows[0], max(row.seeds for row in rows)
    return (
        f"{model} on {dataset}, token budget {first.budget}: Pass@k in per cent ± half the binomial 95% interval over n = "
        f"{first.n} questions; trained methods: mean over {seeds} training seed{'s' * (seeds > 1)}. Below a value, the "
        "difference to the best static setting in points with its paired bootstrap 95% interval. The best static setting is "
        "chosen on validation problems, for each metric anew; the adapter with budget is told B = k. The lookup table is "
        "fitted on the training problems' kinds; the oracle takes each question's best action by the very completions that it "
        "is scored on, which is optimistic.\n"
    )


def paper_note(model: str, dataset: str) -> str:
    """The paper's own gains, for the model and the data set that it has them for; nothing for others."""
    if model.rpartition("/")[2] != "Qwen3-4B" or dataset != "math":
        return ""
    return (
        "The paper (arXiv 2603.09065) reports, for this model and data set, 2 to 3 points over the best static setting for the "
        "sequence-level adapter, and up to 10.2 points at Pass@1 for the token-level one.\n"
    )


def percent(row: Row) -> str:
    """A value with half its interval, in per cent: "41.9 ± 3.1"."""
    return f"{100 * row.value:.1f} ± {100 * row.ci95:.1f}"


def points(gain: Gain | None) -> str:
    """A gain with its interval, in points: "+3.1 [+0.4, +5.9]"; nothing for none."""
    return "" if gain is None else f"{100 * gain.value:+.1f} [{100 * gain.ci95[0]:+.1f}, {100 * gain.ci95[1]:+.1f}]"
