"""Rows as select_actions makes them."""

import dataclasses

from adaptive_jax.evaluation.results import Gain, Row
from adaptive_jax.evaluation.tables import HELD_OUT, SELECTED_ON

ROW = Row("", "mix", "", 28, 0.0, 0.05, 40, 1, 0.0, ())


def coverage_rows(size: int) -> list[Row]:
    """Two selections of N = 1 to `size` settings; held-out coverage is N / 10, that of the other selection N / 20."""
    rows = []
    for count in range(1, size + 1):
        for method, share in (("greedy selection", 0.1), ("top-N by mean", 0.05)):
            value, gain = share * count, Gain("top-N by mean", 0.01, (-0.005, 0.03)) if share == 0.1 else None
            held_out = {"metric": HELD_OUT.format(count), "value": value, "gain": gain}
            rows.append(dataclasses.replace(ROW, method=method, **held_out))
            selected = {"metric": SELECTED_ON.format(count), "value": 2 * value, "n": 12}
            rows.append(dataclasses.replace(ROW, method=method, **selected))
    return rows
