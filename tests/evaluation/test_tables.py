"""The tables of the sequence-level experiments."""

import dataclasses

import numpy as np

from adaptive_jax.evaluation.results import Gain, budget_rows, pass_rows
from adaptive_jax.evaluation.tables import coverage_table, paper_values, pass_caption, pass_table
from tests.evaluation.coverage_rows import coverage_rows


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]


def test_coverage_table() -> None:
    names = {"greedy selection": ["T 1", "greedy"], "top-N by mean": ["T 1", "T 0.9, top-k 8"]}
    table = coverage_table(coverage_rows(2), names, "tiny", "arithmetic")
    assert table.startswith("tiny on arithmetic, CoT mix, token budget 28: ")
    assert "on 40 held-out problems" in table
    assert "of the 12 problems" in table
    header, _, *body = cells(table)
    assert header == ["N", "greedy selection", "top-N by mean", "difference"]
    assert body == [
        ["1", "10.0 ± 5.0 (20.0)", "5.0 ± 5.0 (10.0)", "+1.0 [-0.5, +3.0]"],
        ["2", "20.0 ± 5.0 (40.0)", "10.0 ± 5.0 (20.0)", "+1.0 [-0.5, +3.0]"],
    ]
    assert "greedy selection: T 1; greedy" in table
    assert "top-N by mean: T 1; T 0.9, top-k 8" in table


def test_pass_table() -> None:
    rows = [
        dataclasses.replace(row, value=value, ci95=0.02)
        for method, value in (("best static", 0.25), ("adapter", 0.5))
        for cot in ("all", "mix")
        for row in pass_rows(method, cot, 28, [np.zeros((10, 2))])
    ]
    rows[-1] = dataclasses.replace(rows[-1], gain=Gain("best static", 0.25, (0.1, 0.4)))
    header, _, *body = cells(pass_table(rows, ["pass@1", "pass@2"]))
    assert header == ["metric", "CoT", "best static", "adapter"]
    value = ["25.0 ± 2.0", "50.0 ± 2.0"]
    assert [line for line in body if line[0]] == [[f"Pass@{k}", cot, *value] for k in (1, 2) for cot in ("all", "mix")]
    assert body[-1] == ["", "", "", "+25.0 [+10.0, +40.0]"]
    assert body[1] == [""] * 4
    caption = pass_caption("tiny", "arithmetic", rows)
    assert "n = 10 questions" in caption
    assert "1 training seed." in caption
    assert "Of 1 differences, 1 have an interval without zero" in caption
    seeds = pass_rows("adapter", "all", 28, [np.full((10, 1), 0.5), np.full((10, 1), 0.25)], completions=16)
    assert cells(pass_table([*rows[:1], *seeds], ["pass@1"]))[-1] == ["each seed", "", "", "50.0 / 25.0 (sd 17.7)"]
    assert "n = 10 questions, 16 completions each; trained methods: mean over 2 training seeds." in pass_caption(
        "m", "d", seeds
    )


def test_pass_table_with_token_budgets() -> None:
    rows = [row for name in ("best static", "adapter") for row in budget_rows(name, "all", "pass@1", (8, 16), [np.eye(2)])]
    header, _, *body = cells(pass_table(rows, ["pass@1"]))
    assert header == ["metric", "CoT", "b", "best static", "adapter"]
    assert [line[:3] for line in body[::2]] == [["Pass@1", "all", b] for b in ("8", "16", "mean")]


def test_the_papers_numbers_stand_beside_their_own_model_and_data_set_only() -> None:
    for adapter, reached in (("token adapter, budget", 0.823), ("sequence adapter, budget", 0.742)):
        values = paper_values("Qwen/Qwen3-4B", "math", adapter)
        assert values == {"pass@1": {"best static": 0.721, adapter: reached}}
        rows = [row for name in ("best static", "LPO", adapter) for row in pass_rows(name, "mix", 28, [np.ones((4, 2))])]
        last = cells(pass_table(rows, ["pass@1", "pass@2"], values))[4]
        assert last == ["Pass@1, the paper's", "", "72.1", "", f"{100 * reached:.1f}"]
        assert "paper" not in pass_table(rows, ["pass@1", "pass@2"])
    for model, dataset in (("tiny", "math"), ("Qwen/Qwen3-4B", "gsm8k"), ("Qwen/Qwen3-4B-Base", "math")):
        assert paper_values(model, dataset, "token adapter, budget") == {}
