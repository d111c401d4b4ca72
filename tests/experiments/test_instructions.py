"""The experiments on instructions: their problems are judged by their own verifiers, and IFEval stays for evaluation."""

from pathlib import Path

import numpy as np
import pytest

import adaptive_jax as aj
from experiments.instructions_sequence import InstructionsSequence
from experiments.instructions_token import InstructionsToken
from experiments.splits import load_splits, parts_of

IFEVAL = (
    '{"key": 1, "prompt": "Say no comma.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n'
    '{"key": 2, "prompt": "In quotes.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}\n'
)


@pytest.mark.parametrize("kind", [InstructionsToken, InstructionsSequence])
def test_prompts_are_judged_by_their_instructions(tmp_path: Path, kind: type[InstructionsToken | InstructionsSequence]) -> None:
    (tmp_path / "ifeval.jsonl").write_text(IFEVAL)
    config = kind(model="tiny", limit=4, train_limit=8, eval_dataset=str(tmp_path / "ifeval.jsonl"))
    parts = parts_of(config, load_splits(config))
    assert [len(part) for part in parts.values()] == [8, 2, 4, 2]
    assert len({problem.question for part in parts.values() for problem in part}) == 16
    lm = aj.load_lm("tiny")
    environment = config.environment(lm, parts[config.eval_dataset], config.cot, completions=1)
    assert lm.tokenizer.decode(environment.prompt(0, 1).tokens) == "<|user|>Say no comma.<|assistant|>"
    for text, verdict in {"aa": "correct", "a,": "wrong"}.items():
        tokens = np.array([lm.tokenizer.encode(text, add_special_tokens=False)], np.int32)
        assert environment.grades(tokens, np.array([tokens.shape[1]]), [0])[0].verdict == verdict
