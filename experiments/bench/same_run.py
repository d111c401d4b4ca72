"""Prints what a run draws, as digests: `python -m experiments.bench.same_run MODEL ROWS BUDGET`. For `device_check`."""

import json
import sys

from experiments.bench.device import digests

if __name__ == "__main__":
    model, rows, budget = sys.argv[1:]
    print(json.dumps(digests(model, int(rows), int(budget))))
