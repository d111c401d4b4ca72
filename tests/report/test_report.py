"""Reports of whole, unfinished and damaged runs; nothing that a model writes becomes part of the page's code."""

import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from adaptive_jax.__main__ import main
from adaptive_jax.report.contents import read_run, verdict
from adaptive_jax.report.figures import PRIOR, favourite_tokens
from adaptive_jax.report.page import report

COMMITTED = Path(__file__).parents[2] / "experiments" / "results"
EVIL = "<script>document.title='evil'</script><b>\"'&"


def row(method: str, value: float, gain: tuple[float, float, float] | None = None, budget: object = 48) -> dict[str, Any]:
    told = None if gain is None else {"over": "best static", "value": gain[0], "ci95": list(gain[1:])}
    numbers = {"value": value, "ci95": 0.03, "n": 1000, "seeds": 1, "spread": 0.0, "by_seed": [value, value]}
    return {"method": method, "cot": "all", "metric": "pass@1", "budget": budget, **numbers, "gain": told}


def sample(method: str, judged: str, **others: Any) -> dict[str, Any]:
    return {"method": method, "verdict": judged, "question": EVIL, "gold": "4", "budget": 48, "text": "old text"} | others


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with hostile texts."""
    directory = tmp_path / "run"
    directory.mkdir()
    tokens = {"tokens": ["a ", EVIL], "actions": ["greedy", "T 1"], "entropy": [0.1, 1.2], "top_probability": [0.9, 0.4]}
    rows = [
        row("best static", 0.5),
        row("token adapter, budget", 0.6, (0.1, 0.05, 0.15)),
        row("greedy", 0.08, (-0.42, -0.5, -0.3)),
    ]
    results = {"experiment": "math_token", "model": EVIL, "dataset": "arithmetic", "rows": rows}
    samples = [sample("greedy", "wrong"), sample("token adapter, budget", "correct", **tokens)]
    (directory / "config.json").write_text(json.dumps({"model": EVIL, "seed": 0}))
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    return directory


class Strict(HTMLParser):
    """Every element that is opened is closed, in order; counts elements by name."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_what_a_model_writes_is_text(run: Path) -> None:
    page = report([run])
    counts = parsed(page).counts
    assert (counts["script"], counts["article"], counts["title"]) == (1, 2, 1)
    assert EVIL not in page
    assert page.count("&lt;script&gt;document.title") >= 4
    assert not re.search(r"(src|href)=", page)  # one file, no network


def test_the_committed_runs_and_several_side_by_side() -> None:
    paths = [COMMITTED / name for name in ("math_token_tiny", "math_sequence_tiny", "select_actions_tiny")]
    rows = [len(json.loads((path / "results.json").read_text())["rows"]) for path in paths]
    for path, count in zip(paths, rows, strict=True):
        assert parsed(report([path])).counts["tr"] >= count + 1
    assert parsed(report(paths)).counts["tr"] >= sum(rows) + 1


def test_an_unfinished_run_has_a_report(run: Path) -> None:
    for name in ("results.json", "samples.jsonl"):
        (run / name).unlink()
    assert "The run has no results yet." in report([run])


def test_the_verdict_follows_the_interval(run: Path) -> None:
    content = read_run(run)
    assert verdict(content) == (
        "Pass@1, CoT all: the token adapter, budget reaches 60.0 % and is ahead of best static, +10.0 points [+5.0, +15.0]. "
        "Its seeds reach 60.0, 60.0 %."
    )
    assert "Of 2 differences, 2 have an interval without zero; were there no difference anywhere, about 0.1" in report([run])
    for gain, words in (((-0.1, -0.2, -0.05), "behind"), ((0.1, -0.2, 0.3), "not surely different from")):
        content.results["rows"] = [row("token adapter, budget", 0.6, gain)]
        assert f"and is {words} best static" in verdict(content)


def test_entropy_before_and_after_is_drawn_where_it_is_known(run: Path) -> None:
    def known(actions: list[str], shift: float, points: list[list[float]]) -> dict[str, Any]:
        counts = {"edges": [0, 50, 96], "counts": [3, 4]}
        modulation = {"before": [0.0, 0.5, 1.5], "shift": [0.0, shift, 9.0], "counts": [90, 7, 2], "points": points}
        told = {"actions": actions, "budgets": [96], "mean_tokens": [40.0], "lengths": counts, "tokens": []}
        return told | {"remaining": counts | {"counts": [[1] * len(actions), [0] * len(actions)]}, "modulation": modulation}

    adapter = known(["greedy", "T 1.25"], -0.25, [[0.5, 0.0, 0], [0.7, 0.8, 1], [0.6, 0.7, 1]])
    older = known(["greedy"], -0.5, [])
    del older["modulation"]
    methods = {"greedy": known(["greedy"], -0.5, [[0.5, 0.0, 0]]), "token adapter, budget": adapter, "static 1": older}
    (run / "behaviour.json").write_text(json.dumps({"all": methods}))
    page = report([run])
    parsed(page)
    drawn = {
        re.search(r"<figcaption>(.*?)</figcaption>", f)[1]: f for f in re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    }
    title = "Entropy before the action and of the distribution drawn from, each step, CoT all: "
    assert [drawn[title + name].count("<circle") for name in ("token adapter, budget", "static settings")] == [3, 1]
    shifts = drawn["Mean shift of entropy by an action, by the entropy before it, CoT all"]
    assert re.findall(r"<title>(.*?)</title>", shifts) == [  # and none from two steps
        "greedy: 0 at 0",
        "greedy: -0.5 at 0.5",
        "token adapter, budget: 0 at 0",
        "token adapter, budget: -0.25 at 0.5",
    ]


def test_favourite_tokens_are_those_of_the_formula() -> None:
    counts = np.array([[40, 5], [10, 10], [2, 60], [30, 28]])
    known = {"actions": ["greedy", "T 1"], "tokens": [[f"t{n}", row.tolist()] for n, row in enumerate(counts)]}
    prior = PRIOR * counts.sum(axis=1) / counts.sum()
    own, other = counts[:, 0] + prior, counts[:, 1] + prior
    ratio = np.log(own / (own.sum() - own)) - np.log(other / (other.sum() - other))
    z = ratio / np.sqrt(1 / own + 1 / other)
    found = favourite_tokens(known)
    assert [text for text, _ in found["greedy"]] == [f"t{n}" for n in np.argsort(-z) if z[n] > 1.96]
    for text, score in found["greedy"]:
        assert math.isclose(score, z[int(text[1])])
    assert [text for text, _ in found["T 1"]] == [f"t{n}" for n in np.argsort(z) if -z[n] > 1.96]


def test_the_verb(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "report", str(run)])
    assert main() == 0
    assert (run / "report.html").read_text() == report([run])
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "report", str(tmp_path)])
    assert main() == 2
    assert "no run, which has a config.json" in capsys.readouterr().err
    (run / "results.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "report", str(run)])
    assert main() == 2
    assert "results.json: not JSON" in capsys.readouterr().err


def test_a_picture_of_a_completion(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["adaptive_jax", "report", str(run), "--picture", str(run / "own.svg")]
    monkeypatch.setattr(sys, "argv", command)
    steps = {"tokens": ["a", EVIL, "\n", "b", "c"], "top_probability": [0.5, 0.9, 1.0, 0.95, 0.96]}
    steps |= {"actions": ["T 1", "greedy", "T 1", "T 1", "greedy"], "entropy": [0.5, 1.0, 0.0, 0.25, 0.1]}
    dull = steps | {"actions": ["T 1", "T 1", "greedy", "T 1", "greedy"]}  # changes where nothing is decided
    samples = [sample("token adapter, budget", "correct", **own) for own in (dull, steps)]
    samples += [sample("token adapter, budget", "wrong", **steps), sample("static 1", "correct", **steps)]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    assert main() == 0
    drawing = ElementTree.parse(run / "own.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    rectangles, texts = drawing.findall(f"{space}rect"), [text.text for text in drawing.findall(f"{space}text")]
    assert texts[1:6] == ["a", EVIL, "⏎", "b", "c"]
    boxes = [box for box in rectangles if box.get("opacity")]
    first, second, third = (box.get("fill") for box in boxes)
    assert first == third != second
    heights = [float(box.get("height")) for box in rectangles if not box.get("opacity") and box.get("height") != "14"]
    assert heights == [12, 24, 6]
    (run / "samples.jsonl").write_text("")
    assert main() == 2
    assert "no right completion of token adapter, budget" in capsys.readouterr().err


CLICKS = """<script>
const faults = []; window.addEventListener("error", event => faults.push(event.message));
const sorted = which => { document.querySelectorAll("#results th button")[which].click();
  return [...document.querySelectorAll("#results tbody tr")].map(row => row.cells[4].textContent); };
const seen = () => [...document.querySelectorAll(".sample")].filter(one => !one.hidden).map(one => one.dataset.verdict);
const found = { down: sorted(4), up: sorted(4), all: seen() };
const choice = document.getElementById("verdict"); choice.value = "correct";
choice.dispatchEvent(new Event("change")); found.correct = seen();
const filter = document.getElementById("rowfilter"); filter.value = "adapter"; filter.dispatchEvent(new Event("input"));
found.rows = [...document.querySelectorAll("#results tbody tr")].filter(row => !row.hidden).length;
document.querySelectorAll(".t")[1].focus(); found.told = document.getElementById("told").textContent;
found.wide = document.documentElement.scrollWidth; found.title = document.title; found.faults = faults;
document.body.innerHTML = "<pre id=found></pre>"; document.getElementById("found").textContent = JSON.stringify(found);
</script>"""


@pytest.mark.browser
def test_sorting_and_filters_work_in_a_browser(run: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None, "install chromium"
    page = tmp_path / "page.html"
    page.write_text(report([run]).replace("</body>", CLICKS + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom", f"file://{page}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(
        re.search(r'<pre id="found">(.*?)</pre>', shown.stdout, re.DOTALL)[1]
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
    )
    assert found["down"] == ["60.0", "50.0", "8.0"]
    assert found["up"] == ["8.0", "50.0", "60.0"]
    assert (found["all"], found["correct"], found["rows"]) == (["wrong", "correct"], ["correct"], 1)
    assert found["told"] == "T 1; entropy 1.2 nats, top probability 0.4; 47 tokens left"
    assert found["wide"] <= 500  # nothing but tables scrolls sideways on a narrow screen
    assert (found["title"], found["faults"]) == ("run", [])
    assert "CONSOLE" not in shown.stderr
