"""What README.md says, held against itself: the table against its program, the loop for spot capacity against a preemption."""

import re
import subprocess
import sys

import pytest

from adaptive_jax.policies.token import budget_width
from tests.tpu_scripts.desk import SCRIPTS, Desk

README = (SCRIPTS / "README.md").read_text()


def block(kind: str, start: str = "") -> str:
    found = re.search(rf"^```{kind}\n({re.escape(start)}.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("start", ["import math", "def step_of"])
def test_a_table_is_what_its_program_prints(start: str) -> None:
    program = block("python", start)
    printed = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True).stdout
    assert f"```python\n{program}```\n\n```text\n{printed}```" in README


def test_the_numbers_in_the_text() -> None:
    attention = 2560 * 32 * 128 * 2 + 2560 * 8 * 128 * 2 + 2 * 128
    layer = attention + 3 * 2560 * 9728 + 2 * 2560
    parameters = 36 * layer + 151_936 * 2560 + 2560
    adapter = (2560 + budget_width(2048, "two-hot") + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 4
    for number in (layer, parameters, 36 * 2 * 8 * 128 * 2, 128 * 16 * 833, adapter):
        assert f"{number:,}" in README
    for said, value in (("8.04 GB", 2 * parameters / 1e9), ("1.208 GB", 8192 * 147_456 / 1e9), ("0.68 MB", 4 * adapter / 1e6)):
        assert said in README
        assert float(said.split()[0]) == pytest.approx(value, abs=6e-3)
    for chips, said in ((16, 1.27), (32, 1.31), (8, 1.18)):
        assert f"{said} MB on {chips}" in README
        assert said == pytest.approx(2 * (chips - 1) / chips * 4 * adapter / 1e6, abs=6e-3)
    assert "bytes, 1.02 MB" in README
    assert pytest.approx((1.5 * (2 * 36 + 1) * 2560 * 2 + 0.75 * 151_936 * 4) / 1e6, abs=6e-3) == 1.02


@pytest.mark.parametrize(
    ("ends", "scripts"),
    [
        ("75 75 0", "run delete create setup run delete create setup run delete"),
        ("1", "run delete"),
    ],
)
def test_the_loop_goes_on_after_a_preemption_and_after_nothing_else(desk: Desk, ends: str, scripts: str) -> None:
    (desk.path / "ends").write_text("\n".join(ends.split()) + "\n")
    done = 'basename "$0" .sh >>../done'
    desk.fake("run.sh", f'{done}; end=$(head -n 1 ../ends); sed -i 1d ../ends; exit "$end"', place="checkout/tpu_scripts")
    for name in ("create", "setup", "delete"):
        desk.fake(f"{name}.sh", done, place="checkout/tpu_scripts")
    subprocess.run(["sh", "-c", block("sh", "until")], cwd=desk.checkout, env=desk.environment(), check=True)
    assert (desk.path / "done").read_text().split() == scripts.split()
