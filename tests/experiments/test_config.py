"""The flags of every experiment."""

from experiments.config import Config


def test_budgets() -> None:
    assert Config(budget=(64, 16, 64)).budgets == (16, 64)
    assert Config().budgets == (48, 64, 96)
    assert Config(model="smollm2").budgets == (256, 512, 1024)
