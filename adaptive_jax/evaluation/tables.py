"""The tables of the sequence-level experiments, in Markdown."""

from collections.abc import Mapping, Sequence

from adaptive_jax.evaluation.results import Row, comparisons, each_seed, intervals, percent, points, sample_size, table_line

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
        f"problems{_tries(held_out)}; the difference with its paired bootstrap 95% interval. In brackets, coverage of the "
        f"{selected.n} problems that the settings were selected on{_tries(selected)}, which is optimistic. "
        f"{comparisons(intervals([row for row in rows if row.method == first]))}",
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


def _tries(row: Row) -> str:
    """How many completions are behind a row, where that is known."""
    return "" if row.completions is None else f" ({row.completions} completions under each setting)"


def pass_table(rows: Sequence[Row], metrics: Sequence[str], paper: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The layout of the paper's tables: metric, CoT and token budget down, methods across, in per cent.

    Below each value its gain over the best static setting and what each training seed reached, where there are several; below a
    metric the paper's own values, where it has them.

    Args:
        rows: of one model and data set.
        metrics: those that are shown, such as "pass@1".
        paper: see `paper_values`.
    """
    found = {(row.method, row.cot, row.metric, row.budget): row for row in rows}
    methods, budgets = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("method", "budget"))
    several = len(budgets) > 1
    names = ["metric", "CoT", *["b"] * several]
    lines = [table_line([*names, *methods]), table_line([":--"] * len(names) + ["--:"] * len(methods))]
    for metric in metrics:
        for cot in dict.fromkeys(row.cot for row in rows):
            for budget in budgets:
                own = [found[method, cot, metric, budget] for method in methods]
                lines.append(table_line([metric.capitalize(), cot, *[str(budget)] * several, *map(percent, own)]))
                lines.append(table_line([*[""] * len(names), *(points(row.gain) for row in own)]))
                if any(row.seeds > 1 for row in own):
                    lines.append(table_line(["each seed", *[""] * (len(names) - 1), *map(each_seed, own)]))
        if values := (paper or {}).get(metric):
            told = [f"{100 * values[method]:.1f}" if method in values else "" for method in methods]
            lines.append(table_line([f"{metric.capitalize()}, the paper's", *[""] * (len(names) - 1), *told]))
    return "\n".join(lines) + "\n"


def pass_caption(model: str, dataset: str, rows: Sequence[Row]) -> str:
    """What the numbers of a `pass_table` are."""
    return (
        f"{model} on {dataset}, token budget {rows[0].budget}: Pass@k in per cent ± half the binomial 95% interval over "
        f"{sample_size(rows)}. Below a value, the difference to the best static setting in points with its paired bootstrap "
        f"95% interval, and what each training seed reached. {comparisons(intervals(rows))} The best static setting is "
        "chosen on validation problems, for each metric anew; the adapter with budget is told B = k. The lookup table is "
        "fitted on the training problems' kinds; the oracle takes each question's best action by the very completions that it "
        "is scored on, which is optimistic.\n"
    )


def paper_values(model: str, dataset: str, adapter: str) -> dict[str, dict[str, float]]:
    """The paper's own values, metric -> method -> in [0, 1], for the model and data set that it has them for; else nothing.

    Source: arXiv 2603.09065, MATH with Qwen3-4B.

    Args:
        model, dataset: what our numbers belong to.
        adapter: which of the two adapters, "token adapter, budget" or "sequence adapter, budget".
    """
    if model.rpartition("/")[2] != "Qwen3-4B" or dataset != "math":
        return {}
    reached = {"token adapter, budget": 0.823, "sequence adapter, budget": 0.742}
    return {"pass@1": {"best static": 0.721, adapter: reached[adapter]}}
