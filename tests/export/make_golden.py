"""Writes tests/export/golden with transformers and PyTorch, which the tests that read it do not need.

From the repository's root: uv run --group torch python -m tests.export.make_golden

Per kind of adapter, the adapter as it is saved, and expected.npz: tokens int32 [N, T] and mask bool [N, T], prompts
padded on the left and their completions by the exported adapter; start, where the completions begin; budgets int32 [N]; and
probabilities float32 [N, T - start, A] of the actions.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import adaptive_jax as aj
from adaptive_jax.lm.model import TINY
from tests.export.cases import KINDS, exported, padded

GOLDEN = Path(__file__).parent / "golden"
SAMPLES, STEPS = 2, 12


def main() -> None:
    lm = aj.load_lm("tiny")
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    problem = aj.load_problems("arithmetic", split="test", limit=1)[0]
    ids, mask = padded(lm, ["5", aj.prompt(lm, problem, cot=False)])
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as place:
            directory = exported(kind, lm, Path(place))
            torch.manual_seed(0)
            out = model.generate(
                torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                custom_generate=directory,
                trust_remote_code=True,
                max_new_tokens=STEPS,
                num_return_sequences=SAMPLES,
                budget=[7, STEPS],
                eos_token_id=-1,
                pad_token_id=0,
                return_dict_in_generate=True,
            )
            shutil.copytree(Path(place) / kind, GOLDEN / kind)
        new = np.ones((len(ids) * SAMPLES, STEPS), bool)
        np.savez_compressed(
            GOLDEN / kind / "expected.npz",
            tokens=out.sequences.numpy().astype(np.int32),
            mask=np.concatenate([np.repeat(mask, SAMPLES, axis=0).astype(bool), new], axis=1),
            start=ids.shape[1],
            budgets=np.repeat(np.array([7, STEPS], np.int32), SAMPLES),
            probabilities=out["action_probabilities"].numpy(),
        )


if __name__ == "__main__":
    main()
