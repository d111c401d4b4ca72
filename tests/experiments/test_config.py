"""The flags of every experiment."""

from experiments.config import Config


def test_budgets() -> None:
    assert Config(budget=(64, 16, 64)).budgets == (16, 64)
    assert Config().budgets == (8, 20, 40)
    assert Config(model="tiny").budgets == (48, 64, 96)
    assert Config(model="smollm2").budgets == (256, 512, 1024)


def test_each_model_has_its_problems() -> None:
    assert Config().dataset == "forks"
    assert Config(model="tiny").dataset == Config(model="smollm2").dataset == "arithmetic"
    assert Config(dataset="gsm8k").dataset == Config(model="tiny", dataset="gsm8k").dataset == "gsm8k"
