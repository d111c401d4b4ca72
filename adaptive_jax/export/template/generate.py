"""Decoding with a learnt sampling policy: what `model.generate(..., custom_generate=..., trust_remote_code=True)` calls.

transformers generates as ever (padding, cache, stop tokens, streamers); a hook sees the hidden states, and before each token a
logits processor chooses a sampling setting from them and applies it. N rows, V vocabulary, D hidden size, A settings.
Written from https://arxiv.org/abs/2603.09065 by the package adaptive_jax, which trained the policy.
"""

import base64
import math
from typing import Any

import torch
from safetensors.torch import load
from torch.nn.functional import linear, silu
from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from .adapter import ADAPTER, BASE_MODEL, PROBE, UNUSED_IDS, VOCAB_SIZE, WEIGHTS

# what generation configs may ask for and the policy decides or never knew
SETTINGS = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0}
SETTINGS |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
IGNORED = {*SETTINGS, "transformers_version"}  # of a generation config
ONE_BY_ONE = {"num_beams": 1, "num_beam_groups": 1, "prompt_lookup_num_tokens": None, "assistant_early_exit": None}
REFUSED = (
    "assistant_model logits_processor prefix_allowed_tokens_fn penalty_alpha dola_layers guidance_scale prefill_chunk_size"
)
FEATURE_WEIGHT = 3.0  # of budgets, beside hidden states of root mean square 1


def generate(
    model: Any,
    inputs: Any = None,
    *,
    budget: Any = None,
    uniforms: Any = None,
    check_model: bool = True,
    **options: Any,
) -> Any:
    """As `model.generate`, whose options hold but for those of sampling, which the policy decides.

    Args:
        model: the base model, in any dtype, on any device.
        inputs: token ids, int64 [prompts, length], padded on the left; or `input_ids=`, with `attention_mask=`.
        budget: most new tokens of a completion, an int or one per prompt; `max_new_tokens` by default.
        uniforms: float [N, steps, 2] in [0, 1), to draw tokens [..., 0] and settings [..., 1] by; torch draws by default.
        check_model: compare a hidden state of the model with that of the base model.
        options: `num_return_sequences` is the sampling budget B that a sequence adapter is told.

    Returns:
        What `model.generate` does. With `return_dict_in_generate`, it also has `actions`, int64 [N, steps], each token's index
        in the adapter's settings, and `action_probabilities`, float32 [N, steps, A]. Behind a row's end they mean nothing.

    Raises:
        ValueError: another base model, or an option that cannot be had together with the policy.
    """
    options = {name: value for name, value in options.items() if value is not None}
    config = model.generation_config
    if (given := options.pop("generation_config", None)) is not None:  # taken apart: transformers wants no options beside one
        options = {**{name: value for name, value in given.to_diff_dict().items() if name not in IGNORED}, **options}
    _check_options(options, config)
    _check_model(model, check_model)
    ids = inputs if inputs is not None else options.pop("input_ids", None)
    if ids is None or "inputs_embeds" in options:
        raise ValueError("give token ids, as input_ids; this policy takes no inputs_embeds")
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(
            f"input_ids has shape {list(ids.shape)}: give [prompts, length], with at least one token in each prompt"
        )
    if "attention_mask" not in options and _begins_with_padding(ids, config):
        raise ValueError("a prompt begins with padding: give the tokenizer's attention_mask, too, as in generate(**inputs)")
    count = options.get("num_return_sequences", config.num_return_sequences) or 1
    mask = options.setdefault("attention_mask", torch.ones_like(ids))
    if not bool(mask[:, -1].all()):
        raise ValueError("the padding is on the right: set tokenizer.padding_side = 'left'")
    budgets = _budgets(options, config, budget, len(ids), ids.device).repeat_interleave(count)
    policy = Policy(mask.repeat_interleave(count, 0), count, budgets, uniforms)
    stopping = StoppingCriteriaList([*options.pop("stopping_criteria", []), BudgetSpent(ids.shape[1], budgets)])
    hook = model.base_model.register_forward_hook(policy.see)
    try:
        output = model.generate(
            ids,
            logits_processor=[policy],
            stopping_criteria=stopping,
            disable_compile=True,
            **{**options, **SETTINGS, **ONE_BY_ONE},
        )
    finally:
        hook.remove()
    if not isinstance(output, torch.Tensor):
        output["actions"] = torch.stack(policy.actions, 1)
        output["action_probabilities"] = torch.stack(policy.probabilities, 1)
    return output


class Policy(LogitsProcessor):
    """Chooses a setting for every row, and masks and scales the logits accordingly.

    Args:
        mask: [N, length], which tokens of the prompts are real.
        samples: sampling budget B.
        budgets: int64 [N], token budgets b.
        uniforms: see `generate`.
    """

    def __init__(self, mask: Any, samples: int, budgets: Any, uniforms: Any):
        device = budgets.device
        self.mlp = {name: array.to(device) for name, array in load(base64.b64decode(WEIGHTS)).items()}
        self.settings = {name: torch.tensor(values, device=device) for name, values in ADAPTER["actions"].items()}
        self.mask, self.samples, self.budgets = mask, samples, budgets
        self.uniforms = None if uniforms is None else torch.as_tensor(uniforms, device=device)
        self.prompt: Any = None
        self.hidden: Any = None
        self.actions: list[Any] = []
        self.probabilities: list[Any] = []

    def see(self, module: Any, arguments: Any, output: Any) -> None:
        """The hook: keeps what predicts the next token, [N, D], and at first the whole prompt's, [N, length, D]."""
        states = output.last_hidden_state
        self.hidden = states[:, -1]
        if not self.actions:
            self.prompt = states

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        step = len(self.actions)
        logits = scores.float()
        logits[:, UNUSED_IDS] = -math.inf
        uniforms = torch.rand(len(logits), 2, device=logits.device) if self.uniforms is None else self.uniforms[:, step]
        if ADAPTER["kind"] == "token":
            probabilities = self._probabilities(self._token_features(logits, step))
            action = (uniforms[:, 1:] >= probabilities.cumsum(-1)[:, :-1]).sum(-1)
        elif step == 0:
            probabilities = self._probabilities(self._prompt_features())
            action = probabilities.argmax(-1)
            if held := ADAPTER.get("held"):
                fixed = held[min(self.samples, len(held)) - 1]
                action = action if fixed < 0 else torch.full_like(action, fixed)
            self.prompt = None
        else:
            action, probabilities = self.actions[0], self.probabilities[0]
        self.actions.append(action)
        self.probabilities.append(probabilities)
        setting = {name: values[action][:, None] for name, values in self.settings.items()}
        weights = kept(logits, setting)
        if self.uniforms is not None:
            weights = drawn(weights, uniforms[:, :1])
        temperature = torch.where(setting["temperature"] > 0, setting["temperature"], 1.0)
        return torch.where(weights > 0, logits / temperature, -math.inf)

    def _token_features(self, logits: Any, step: int) -> Any:
        if ADAPTER["inputs"] == "entropy":
            return torch.special.entr(logits.softmax(-1)).sum(-1, keepdim=True).to(self.hidden.dtype)
        parts = [normed(self.hidden)]
        if ADAPTER["inputs"] == "hidden+budget":
            parts.append(budget_features((self.budgets - step).clamp(min=0)[:, None].float()))
        return torch.cat([part.to(self.hidden.device) for part in parts], -1).to(self.hidden.dtype)

    def _prompt_features(self) -> Any:
        mask = self.mask[:, :, None].to(self.prompt.device)
        mean = ((self.prompt.float() * mask).sum(1) / mask.sum(1)).to(self.prompt.dtype)
        parts = {"last": [self.hidden], "mean": [mean], "both": [self.hidden, mean]}[ADAPTER["pooling"]]
        parts = [normed(part) for part in parts]
        if ADAPTER["sees_samples"]:
            scale = ADAPTER["samples_scale"]
            share = math.log2(min(self.samples, scale)) / max(math.log2(scale), 1.0)
            parts.append(torch.full_like(parts[0][:, :1], centred(share)))
        return torch.cat(parts, -1)

    def _probabilities(self, features: Any) -> Any:
        x, mlp = features.float().to(self.budgets.device), self.mlp
        x = silu(linear(x, mlp["first.kernel"].T, mlp["first.bias"]))
        x = silu(linear(x, mlp["second.kernel"].T, mlp["second.bias"]))
        return linear(x, mlp["last.kernel"].T, mlp["last.bias"]).softmax(-1)


class BudgetSpent(StoppingCriteria):
    """Ends each row at its own token budget."""

    def __init__(self, prompt_length: int, budgets: Any):
        self.prompt_length, self.budgets = prompt_length, budgets

    def __call__(self, input_ids: Any, scores: Any, **others: Any) -> Any:
        return input_ids.shape[1] - self.prompt_length >= self.budgets


def normed(hidden: Any) -> Any:
    """Divided by their root mean square, [N, D] in float32."""
    wide = hidden.float()
    return wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-6)


def budget_features(remaining: Any) -> Any:
    """The remaining budgets, float32 [N, 1] in tokens, as the adapter sees them, [N, F]."""
    scale, encoding = ADAPTER["budget_scale"], ADAPTER["budget_encoding"]
    if encoding == "two-hot":
        place = (1 + remaining.clamp(max=scale)).log2()
        every = torch.arange(scale.bit_length() + 1, device=remaining.device)
        return FEATURE_WEIGHT * (1 - (place - every).abs()).clamp(min=0)
    shares = torch.cat([remaining / scale, remaining.log1p() / math.log1p(scale)], -1)
    return centred(shares) if encoding == "centred" else shares


def centred(share: Any) -> Any:
    """From -3 to 3, of 0 to 1."""
    return FEATURE_WEIGHT * (2.0 * share - 1.0)


def kept(logits: Any, setting: dict[str, Any]) -> Any:
    """Weights [N, V] in [0, 1] of the tokens after temperature, top-k, top-p and min-p, in this order; 0 for those cut off.

    Ties at a cut stay, and so does the token that crosses top-p.
    """
    temperature, top_k, top_p, min_p = (setting[name] for name in ("temperature", "top_k", "top_p", "min_p"))
    weights = ((logits - logits.amax(-1, keepdim=True)) / torch.where(temperature > 0, temperature, 1.0)).exp()
    if bool((top_k > 0).any()):
        places = torch.where(top_k > 0, top_k, logits.shape[-1]).clamp(max=logits.shape[-1]) - 1
        least = weights.sort(-1, descending=True).values.gather(-1, places.long())
        weights = torch.where(weights >= least, weights, 0.0)
    if bool((top_p < 1).any()):
        ordered = weights.sort(-1, descending=True).values
        mass_before = ordered.cumsum(-1) - ordered
        inside = (mass_before < top_p * ordered.sum(-1, keepdim=True)) | (top_p >= 1)
        weights = torch.where(weights >= torch.where(inside, ordered, 1.0).amin(-1, keepdim=True), weights, 0.0)
    weights = torch.where(weights >= min_p, weights, 0.0)
    greedy = torch.zeros_like(weights).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.where(temperature > 0, weights, greedy)


def drawn(weights: Any, uniform: Any) -> Any:
    """One token of each row, as weights [N, V]: the first at which the running sum passes the uniform number [N, 1]."""
    running = weights.double().cumsum(-1)
    passed = (running > (uniform + 2.0**-24) * running[:, -1:]) & (weights > 0)
    return torch.zeros_like(weights).scatter(-1, passed.int().argmax(-1, keepdim=True), 1.0)


def _budgets(options: dict[str, Any], config: Any, budget: Any, prompts: int, device: Any) -> Any:
    """Token budgets, int64 [prompts]; sets max_new_tokens where only a budget was given."""
    most = options.get("max_new_tokens", config.max_new_tokens)
    if most is None and budget is None:
        raise ValueError("give max_new_tokens, such as 256: it is the token budget that the policy is told")
    budgets = torch.as_tensor(most if budget is None else budget, device=device)
    if budgets.is_floating_point():
        raise ValueError(f"budget is {budget}: give whole numbers of tokens")
    budgets = budgets.long()
    if budgets.ndim > 1 or (budgets.ndim == 1 and len(budgets) != prompts):
        raise ValueError(f"budget has shape {list(budgets.shape)} for {prompts} prompts: give one number, or one each")
    most = options["max_new_tokens"] = int(budgets.max()) if most is None else most
    if int(budgets.min()) < 1 or int(budgets.max()) > most:
        raise ValueError(f"a budget is outside 1..{most}: raise max_new_tokens or lower the budget")
    return budgets.expand(prompts)


def _begins_with_padding(ids: Any, config: Any) -> bool:
    """Whether a prompt does, as far as can be told: where padding is a stop token, transformers takes it for one, too."""
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return config.pad_token_id not in (None, *stops) and bool((ids[:, 0] == config.pad_token_id).any())


def _check_options(options: dict[str, Any], config: Any) -> None:
    for name in SETTINGS:
        if name in options and options[name] != SETTINGS[name]:
            raise ValueError(
                f"{name}={options[name]} was given, but the policy chooses how tokens are sampled: leave {name} out; a "
                f"pipeline has defaults of its own: there give {name}={SETTINGS[name]}"
            )
    for name in REFUSED.split():
        if options.get(name):
            raise ValueError(f"the policy cannot be used with {name}: leave it out, or leave custom_generate out")
        options.pop(name, None)
    for name, value in ONE_BY_ONE.items():
        found = options.get(name, getattr(config, name, None))
        if found not in (None, value):
            raise ValueError(f"{name} is {found}, but the policy samples tokens one by one: set {name}={value}")


def _check_model(model: Any, check_model: bool) -> None:
    shape = model.config.get_text_config()
    if shape.hidden_size != ADAPTER["hidden_size"]:
        raise ValueError(
            f"this adapter belongs to {BASE_MODEL}, of hidden size {ADAPTER['hidden_size']}, and this model has "
            f"{shape.hidden_size}: load {BASE_MODEL}"
        )
    if shape.vocab_size != VOCAB_SIZE:
        raise ValueError(
            f"this adapter was trained with a vocabulary of {VOCAB_SIZE} tokens, and this model has {shape.vocab_size}: "
            f"load {BASE_MODEL} without resizing its embeddings"
        )
    if not check_model:
        return
    with torch.no_grad():
        ids = torch.arange(PROBE["tokens"], device=model.device)[None]
        seen = model.base_model(ids, use_cache=False).last_hidden_state[0, -1].float().cpu()
    wanted = torch.tensor(PROBE["hidden"])
    difference = float((seen - wanted).norm() / wanted.norm())
    if not difference < (0.01 if model.dtype == torch.float32 else 0.1):
        raise ValueError(
            f"this model is not {BASE_MODEL}, with which the adapter was trained: a hidden state differs by "
            f"{100 * difference:.0f}%. Load {BASE_MODEL}, or give check_model=False if it is that one, quantised"
        )
