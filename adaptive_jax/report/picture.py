"""One completion with its actions as an SVG file: what an adapter does, at a glance."""

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

from adaptive_jax.decoding.loop import DECISION_TOP_PROBABILITY
from adaptive_jax.report.contents import OURS, RunContents
from adaptive_jax.report.svg import COLOURS

WIDTH = 860
GLYPH, LINE, BAR = 9.0, 58, 24  # px: a monospaced character, a line of tokens, and the highest entropy bar
MARGIN = 14
LONGEST = 120  # tokens

STYLE = (
    "svg { background: #fff; } text { font: 15px ui-monospace, monospace; fill: #1b1b1b; white-space: pre; } "
    ".note { font: 14px system-ui, sans-serif; fill: #555; } "
    "@media (prefers-color-scheme: dark) { svg { background: #161616; } text { fill: #e8e8e8; } .note { fill: #a5a5a5; } }"
)


def picture(run: RunContents) -> str:
    """A right completion of the run's adapter: each decision on the colour of its action, under a bar as high as its entropy.

    It is the one with the most changes of action between decisions, among those of at most `LONGEST` tokens.

    Raises:
        ValueError: the run has no such completion.
    """
    known = [
        sample
        for sample in run.samples
        if sample["verdict"] == "correct" and sample["method"] in OURS and 0 < len(sample.get("tokens", ())) <= LONGEST
    ]
    if not known:
        raise ValueError(f"{run.name}: no right completion of {' or '.join(OURS)} in its samples.jsonl")
    return _drawn(max(known, key=_changes))


def _changes(sample: Mapping[str, Any]) -> int:
    decided = zip(sample["actions"], sample["top_probability"], strict=True)
    return sum(one != other for one, other in pairwise(action for action, p in decided if p <= DECISION_TOP_PROBABILITY))


def _drawn(sample: Mapping[str, Any]) -> str:
    names = sorted(set(sample["actions"]), key=_temperature)
    colours = dict(zip(names, COLOURS, strict=False))
    highest = max(*sample["entropy"], 1e-9)
    parts: list[str] = []
    x, y = float(MARGIN), 84.0
    steps = zip(*(sample[name] for name in ("tokens", "actions", "entropy", "top_probability")), strict=True)
    for token, action, entropy, top_probability in steps:
        text = token.replace("\n", "⏎")
        width = GLYPH * len(text) + 6
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        if top_probability <= DECISION_TOP_PROBABILITY:
            high = BAR * entropy / highest
            place = f'x="{x:.1f}" width="{width - 2:.1f}" fill="{colours[action]}"'
            parts.append(f'<rect {place} y="{y:.1f}" height="22" rx="3" opacity=".35"/>')
            parts.append(f'<rect {place} y="{y - high - 2:.1f}" height="{high:.1f}"/>')
        parts.append(f'<text x="{x + 2:.1f}" y="{y + 16:.1f}">{escape(text)}</text>')
        x += width
    height = y + LINE + 36
    asked = sample["question"].replace("\n", " ")
    told = f"{asked[:90]} ({sample['budget']} tokens at most; the answer {sample['gold']} is right)"
    legend, at = [], float(MARGIN)
    for name, colour in colours.items():
        legend.append(f'<rect x="{at:.1f}" y="{height - 48:.1f}" width="14" height="14" fill="{colour}"/>')
        legend.append(f'<text class="note" x="{at + 20:.1f}" y="{height - 36:.1f}">{escape(name)}</text>')
        at += 44 + 8 * len(name)
    note = f"bar: entropy before the action, up to {highest:.2g} nats; no colour: as good as certain, whatever the action"
    legend.append(f'<text class="note" x="{MARGIN}" y="{height - 12:.1f}">{note}</text>')
    title = f"A completion of the {sample['method']}, each decision on the colour of its action"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<style>{STYLE}</style>"
        f'<text class="note" x="{MARGIN}" y="28">{escape(told)}</text>{"".join(parts)}{"".join(legend)}</svg>\n'
    )


def _temperature(name: str) -> tuple[bool, str]:
    """Greedy comes first, then settings by their names."""
    return name != "greedy", name
