"""config.json files of models that people load, as they are published: no test can download them.

The fields of Gemma 3, SmolLM3, OLMo 2 and 3, Phi-4-mini and Ministral 3 are those that public tests of other projects quote
from the hub (TensorRT-LLM, vLLM ports and others), and so is Gemma's number of parameters (keras-hub). The other configs and
numbers are written from memory; a field that is misread or misremembered makes another number, since all tensors of the text
model count.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from transformers import CONFIG_MAPPING

from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.weights import shapes

WHERE = "config.json"
SAID = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16", "pretraining_tp": 1}
LLAMA_3_2_1B = SAID | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
    "vocab_size": 128256,
}
QWEN3_4B = SAID | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MISTRAL_7B_V03 = SAID | {
    "architectures": ["MistralForCausalLM"],
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32768,
}
GEMMA_3_1B = SAID | {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GEMMA_3_4B = {  # its text part leaves most fields out
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
}
SMOLLM3_3B = SAID | {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
OLMO_2_7B = SAID | {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
OLMO_3_7B = OLMO_2_7B | {
    "architectures": ["Olmo3ForCausalLM"],
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "max_position_embeddings": 65536,
    "model_type": "olmo3",
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "sliding_window": 4096,
    "vocab_size": 100278,
}
OLMO_3_7B["layer_types"] = OLMO_3_7B["layer_types"] * 8
PHI_4_MINI = SAID | {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoTokenizer": "Xenova/gpt-4o"},
    "embd_pdrop": 0.0,
    "eos_token_id": 199999,
    "full_attn_mod": 1,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "phi3",
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 199999,
    "partial_rotary_factor": 0.75,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [1.0 + n for n in range(48)], "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
MINISTRAL_3_8B = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "dtype": "bfloat16",
    "image_token_index": 10,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "spatial_merge_size": 2,
    "text_config": {
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 262144,
        "model_type": "ministral3",
        "num_attention_heads": 32,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 16.0,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 16384,
            "rope_theta": 1000000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
    "vision_config": {"head_dim": 64, "hidden_size": 1024, "model_type": "pixtral"},
    "vision_feature_layer": -1,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": LLAMA_3_2_1B,
    "Qwen/Qwen3-4B": QWEN3_4B,
    "mistralai/Mistral-7B-v0.3": MISTRAL_7B_V03,
    "google/gemma-3-1b-it": GEMMA_3_1B,
    "google/gemma-3-4b-it": GEMMA_3_4B,
    "HuggingFaceTB/SmolLM3-3B": SMOLLM3_3B,
    "allenai/OLMo-2-1124-7B": OLMO_2_7B,
    "allenai/Olmo-3-7B-Instruct": OLMO_3_7B,
    "microsoft/Phi-4-mini-instruct": PHI_4_MINI,
    "mistralai/Ministral-3-8B-Instruct-2512": MINISTRAL_3_8B,
}
PARAMETERS = {
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 3_880_099_328 + 64 * 2560,  # and 64 words for images
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/Olmo-3-7B-Instruct": 7_298_011_136,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_config_gives_as_many_parameters_as_the_model_has(name: str) -> None:
    state = nnx.state(shapes(LMConfig.from_hf(PUBLISHED[name], WHERE), jnp.dtype(jnp.bfloat16)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_means_what_transformers_reads_in_it(name: str) -> None:
    """transformers fills it in, and spells it in the way of its present version."""
    published = PUBLISHED[name]
    theirs = CONFIG_MAPPING[published["model_type"]](**published).to_dict()
    theirs["architectures"] = published["architectures"]
    ours = LMConfig.from_hf(published, WHERE)
    assert LMConfig.from_hf(theirs, WHERE) == ours


def test_published_layers_slide_and_turn_as_their_papers_say() -> None:
    read = {name: LMConfig.from_hf(published, WHERE) for name, published in PUBLISHED.items()}
    five_to_one = [True] * 5 + [False]
    gemma = read["google/gemma-3-4b-it"]
    assert gemma.sliding == tuple((five_to_one * 6)[:34])
    assert (gemma.window, gemma.rope.kind, gemma.rope.factor, gemma.rope.theta) == (1024, "linear", 8.0, 1e6)
    assert gemma.local_rope is not None
    assert (gemma.local_rope.kind, gemma.local_rope.theta) == ("default", 1e4)
    assert read["google/gemma-3-1b-it"].sliding == tuple((five_to_one * 5)[:26])
    assert read["HuggingFaceTB/SmolLM3-3B"].unrotated == (False, False, False, True) * 9
    olmo = read["allenai/Olmo-3-7B-Instruct"]
    assert (olmo.sliding, olmo.rope.kind) == ((True, True, True, False) * 8, "yarn")
    phi = read["microsoft/Phi-4-mini-instruct"]
    assert (phi.max_positions, phi.rope.attention_factor) == (4096, pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096))))
    ministral = read["mistralai/Ministral-3-8B-Instruct-2512"]
    assert (ministral.family, ministral.query_growth, ministral.rope.attention_factor) == ("ministral3", 0.1, 1.0)
    for name in ("Qwen/Qwen3-4B", "mistralai/Mistral-7B-v0.3", "allenai/OLMo-2-1124-7B", "HuggingFaceTB/SmolLM3-3B"):
        assert read[name] == replace(read[name], window=None, sliding=())


def test_weights_of_eight_bits_are_refused_around_a_text_model_too() -> None:
    quantised = MINISTRAL_3_8B | {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(ValueError, match="'quantization_config' is set; load the model's unquantised weights instead"):
        LMConfig.from_hf(quantised, WHERE)
