"""Hugging Face `generate` (torch), as a side of the benchmark; run by an interpreter that has torch and transformers."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.bench.serving import Generate, Tokens, serve, timed

CPU_FLAGS = Path("/proc/cpuinfo")


def load(directory: Path) -> tuple[dict[str, Any], Generate]:
    """The hello, and `generate` over the model in `directory`, on the GPU if torch sees one."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    @cache
    def model(dtype: str) -> Any:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        # `generate` fills what a call's settings leave open from these: no stop token may come from there
        loaded.generation_config = transformers.GenerationConfig()
        return loaded.to(device).eval()

    def generate(
        prompts: Tokens,
        new_tokens: int,
        temperature: float,
        top_p: float,
        top_k: int,
        dtype: str,
        stop_ids: list[int],
        seed: int,
        repeat: int,
    ) -> dict[str, Any]:
        lm = model(dtype)
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        settings = transformers.GenerationConfig(
            max_new_tokens=new_tokens,
            eos_token_id=stop_ids or None,
            pad_token_id=stop_ids[0] if stop_ids else 0,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )

        def call() -> Tokens:
            with torch.inference_mode():
                return lm.generate(ids, attention_mask=mask, generation_config=settings)[:, width:].tolist()

        torch.manual_seed(seed)
        tokens, seconds = timed(call, repeat)
        return {"tokens": [_until(row, stop_ids) for row in tokens], "seconds": seconds}

    flags = CPU_FLAGS.read_text() if CPU_FLAGS.is_file() else ""
    hello = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "bfloat16_units": [unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags],
    }
    return hello, generate


def _until(row: list[int], stop_ids: list[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in stop_ids), len(row))]


if __name__ == "__main__":
    serve(load)
