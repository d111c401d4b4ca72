"""Log-probabilities of what is drawn, against NumPy on the model's own logits."""

import numpy as np
import pytest

import adaptive_jax as aj
from tests.decoding.test_sampling import oracle

SETTINGS = [  # temperature, top-k, top-p, min-p
    (0.0, 0, 1.0, 0.0),
    (0.7, 0, 0.9, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.4, 40, 0.95, 0.02),
    (2.0, 0, 1.0, 0.0),
]
OPTIONS = {"n": 10, "max_new_tokens": 24, "rows": 8, "seed": 3}


@pytest.fixture(scope="module")
def lm() -> aj.LM:
    return aj.load_lm("tiny")


@pytest.mark.parametrize("stop", [[], ["=1"]])
def test_logprobs_are_those_of_the_distribution_drawn_from_and_of_the_model(
    lm: aj.LM, stop: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [aj.prompt(lm, problem) for problem in aj.load_problems("arithmetic", limit=2)]
    policy = aj.mixed([aj.SamplingParams(*setting) for setting in SETTINGS])
    done = aj.generate(lm, prompts, policy, stop=stop, logprobs=True, progress=True, **OPTIONS)
    bare = aj.generate(lm, prompts, policy, stop=stop, **OPTIONS)
    assert "20/20" in capsys.readouterr().err
    met = set()
    for prompt, group, plain in zip(prompts, done, bare, strict=True):
        beginning = lm.tokenizer.encode(prompt, add_special_tokens=False)
        for completion, same in zip(group, plain, strict=True):
            assert completion.tokens.tolist() == same.tokens.tolist()
            assert same.logprobs is None
            assert same.model_logprobs is None
            tokens, length = np.zeros((1, 128), np.int32), len(beginning) + len(completion.tokens)
            tokens[0, :length] = *beginning, *completion.tokens
            logits = lm(tokens, np.arange(128)[None] < length)[0][0, len(beginning) - 1 : length - 1]
            logits = np.asarray(logits, np.float64)
            chosen = np.arange(len(logits)), completion.tokens
            model = (logits - logits.max(axis=1, keepdims=True))[chosen]
            model -= np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
            settings = [SETTINGS[action] for action in completion.actions]
            drawn = [oracle(row, *s)[t] for row, s, t in zip(logits, settings, completion.tokens, strict=True)]
            for got, expected in ((completion.model_logprobs, model), (completion.logprobs, np.log(drawn))):
                assert got.dtype == np.float32
                assert got.shape == completion.tokens.shape
                np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
            met |= set(completion.actions.tolist())
    assert met == set(range(len(SETTINGS)))
