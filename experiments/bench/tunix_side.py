"""Google Tunix's `Sampler`, as a side of the benchmark; run by an interpreter that has google-tunix."""

import json
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3 import model as llama
from tunix.models.llama3.params import create_model_from_safe_tensors

from experiments.bench.serving import Generate, Tokens, serve, timed

PAD = -1  # no token, so that no token of a prompt and none that is sampled is taken for padding
COMPILED = "/jax/core/compile/backend_compile_duration"


class _Ids:
    """Tokenizer of the sampler: a text is token ids with spaces between. No token begins or ends a text by itself."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return PAD

    def pad_id(self) -> int:
        return PAD


def load(directory: Path) -> tuple[dict[str, Any], Generate]:
    """The hello, and `generate` over the Llama in `directory`."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    theta = config["rope_theta"]
    # its attention never hands on the config's theta, so the function that it calls gets another default
    llama.apply_rope = partial(llama.apply_rope, rope_theta=theta)
    shape = llama.ModelConfig(
        num_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        num_kv_heads=config["num_key_value_heads"],
        rope_theta=theta,
        norm_eps=config["rms_norm_eps"],
        weight_tying=config["tie_word_embeddings"],
    )
    compiled = 0

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        nonlocal compiled
        compiled += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(count)

    @cache
    def model(dtype: str) -> llama.Llama3:
        return create_model_from_safe_tensors(str(directory), shape, dtype=jnp.dtype(dtype))

    @cache  # a sampler's compiled functions keep the cache size and the stop tokens of its first call
    def sampler(dtype: str, cache_size: int, _stop_ids: tuple[int, ...]) -> Sampler:
        return Sampler(model(dtype), _Ids(), CacheConfig(cache_size, shape.num_layers, shape.num_kv_heads, shape.head_dim))

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
        width = max(map(len, prompts))
        sample = sampler(dtype, width + new_tokens, tuple(stop_ids))
        texts = [_Ids().decode(prompt) for prompt in prompts]
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k} if temperature > 0 else {}

        compilations = []

        def call() -> Tokens:
            before = compiled
            result = sample(
                texts,
                max_generation_steps=new_tokens,
                max_prompt_length=width,
                eos_tokens=stop_ids or [PAD],
                seed=seed,
                **sampling,
            )
            compilations.append(compiled - before)
            return [row.tolist() for row in result.tokens]

        tokens, seconds = timed(call, repeat)
        return {"tokens": tokens, "seconds": seconds, "compilations": compilations}

    hello = {
        "google-tunix": version("google-tunix"),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    return hello, generate


if __name__ == "__main__":
    serve(load)
