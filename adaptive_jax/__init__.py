"""Learning how a frozen language model samples: adaptive decoding policies in JAX (arXiv 2603.09065).

The public face; see the README for an example. A name's module is imported when the name is first used, so that programs that
need few of them, such as the workers that call reward functions, start without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_jax.decoding import sampling
    from adaptive_jax.decoding.generate import Completion, generate, rollout_batches
    from adaptive_jax.decoding.params import SamplingParams
    from adaptive_jax.decoding.policy import Observation, Policy, PromptObservation
    from adaptive_jax.decoding.prompt import Prompt
    from adaptive_jax.decoding.rollout import rollout
    from adaptive_jax.decoding.trajectory import Trajectory
    from adaptive_jax.environment import Environment, prompt
    from adaptive_jax.evaluation.evaluate import Scores, evaluate
    from adaptive_jax.export.choose import choose
    from adaptive_jax.learning.fit import train
    from adaptive_jax.lm.model import LM, load_lm
    from adaptive_jax.parallel import local_mesh
    from adaptive_jax.policies.fixed import mixed, static
    from adaptive_jax.policies.sequence import sequence_adapter
    from adaptive_jax.policies.token import token_adapter
    from adaptive_jax.runs.adapters import load_adapter, save_adapter
    from adaptive_jax.tasks.grading import grade, grade_many
    from adaptive_jax.tasks.loading import load_problems
    from adaptive_jax.tasks.problem import Problem

_MODULES = {
    name: module
    for module, names in {
        "decoding.generate": "Completion generate rollout_batches",
        "decoding.params": "SamplingParams",
        "decoding.policy": "Observation Policy PromptObservation",
        "decoding.prompt": "Prompt",
        "decoding.rollout": "rollout",
        "decoding.sampling": "sampling",
        "decoding.trajectory": "Trajectory",
        "evaluation.evaluate": "Scores evaluate",
        "export.choose": "choose",
        "environment": "Environment prompt",
        "learning.fit": "train",
        "lm.model": "LM load_lm",
        "parallel": "local_mesh",
        "policies.fixed": "mixed static",
        "policies.sequence": "sequence_adapter",
        "policies.token": "token_adapter",
        "runs.adapters": "load_adapter save_adapter",
        "tasks.grading": "grade grade_many",
        "tasks.loading": "load_problems",
        "tasks.problem": "Problem",
    }.items()
    for name in names.split()
}

__all__ = [
    "LM",
    "Completion",
    "Environment",
    "Observation",
    "Policy",
    "Problem",
    "Prompt",
    "PromptObservation",
    "SamplingParams",
    "Scores",
    "Trajectory",
    "choose",
    "evaluate",
    "generate",
    "grade",
    "grade_many",
    "load_adapter",
    "load_lm",
    "load_problems",
    "local_mesh",
    "mixed",
    "prompt",
    "rollout",
    "rollout_batches",
    "sampling",
    "save_adapter",
    "sequence_adapter",
    "static",
    "token_adapter",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'adaptive_jax' has no attribute {name!r}")
    module = importlib.import_module(f"adaptive_jax.{_MODULES[name]}")
    value = getattr(module, name, module)  # `sampling` is a module itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
