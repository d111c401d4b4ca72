"""The tour runs, and the entropies that it shows are those of the model's distributions."""

import jax
import numpy as np
import pytest

import adaptive_jax as aj
from experiments.tour import Config, entropies, main


def test_the_tour_goes_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax promotes; users run without the strictness of tests
        main(Config(updates=1, limit=4))
    out = capsys.readouterr().out
    assert [line[:2] for line in out.splitlines() if line[:1].isdigit() and line[1] == "."] == [
        "1.",
        "2.",
        "3.",
        "4.",
        "5.",
        "6.",
    ]
    assert out.count(" tokens  ") == 12
    assert "token adapter " in out


def test_entropies() -> None:
    lm = aj.load_lm("tiny")
    prompt = aj.prompt(lm, aj.load_problems("arithmetic", limit=1)[0])
    tokens = aj.generate(lm, [prompt], aj.static(temperature=1.0), max_new_tokens=12, seed=0)[0][0].tokens
    found = entropies(lm, prompt, tokens)
    for position in (0, len(tokens) - 1):
        text = np.array([[*lm.tokenizer.encode(prompt, add_special_tokens=False), *tokens[:position]]], np.int32)
        logits = np.asarray(lm(text, np.ones(text.shape, bool))[0][0, -1], np.float64)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(found[position], -np.sum(probabilities * np.log(probabilities)), atol=1e-5)
