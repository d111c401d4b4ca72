"""The report: one HTML file that needs no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adaptive_jax.evaluation.results import comparisons
from adaptive_jax.report.contents import RunContents, read_run, verdict
from adaptive_jax.report.figures import favourite_tokens, figures
from adaptive_jax.report.svg import COLOURS

SHOWN = 400  # completions of a run at most

_PAGES = Environment(
    loader=PackageLoader("adaptive_jax.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.globals["colours"] = COLOURS


def report(directories: Sequence[Path]) -> str:
    """The report of one or several run directories, as HTML.

    Raises:
        ValueError, OSError: a directory is no run, or a file of it is damaged; names it.
    """
    runs = [read_run(directory) for directory in directories]
    return _PAGES.get_template("report.html.jinja").render(runs=[_shown(run) for run in runs], several=len(runs) > 1)


def _shown(run: RunContents) -> dict[str, Any]:
    """What the template shows of a run."""
    words = {
        f"{method}, CoT {cot}": {name: [text for text, _ in tokens] for name, tokens in favourite_tokens(known).items()}
        for cot, behaviour in run.behaviour.items()
        for method, known in behaviour.items()
        if len(known["actions"]) > 1 and known["tokens"]
    }
    samples = _spread(run.samples)
    return {
        "name": run.name,
        "experiment": run.results.get("experiment", run.config.get("experiment", "run")),
        "model": run.results.get("model", run.config.get("model", "")),
        "dataset": run.results.get("dataset", run.config.get("dataset", "")),
        "verdict": verdict(run),
        "comparisons": comparisons([row["gain"]["ci95"] for row in run.rows if row.get("gain")]),
        "rows": run.rows,
        "figures": [Markup(figure) for figure in figures(run)],
        "words": words,
        "samples": samples,
        "left_out": len(run.samples) - len(samples),
        "methods": list(dict.fromkeys(sample["method"] for sample in samples)),
        "verdicts": list(dict.fromkeys(sample["verdict"] for sample in samples)),
        "settings": list(dict.fromkeys(name for sample in samples for name in sample.get("actions", ()))),
        "facts": {"flags": _flat(run.config), "machine": _flat(run.environment)},
    }


def _spread(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `SHOWN` samples: in turn one of each method and verdict."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        kinds.setdefault((sample["method"], sample["verdict"]), []).append(sample)
    each = max(SHOWN // max(len(kinds), 1), 1)
    return [sample for own in kinds.values() for sample in own[:each]]


def _flat(facts: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
