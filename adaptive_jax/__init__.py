"""Learning how a frozen language model samples: adaptive decoding policies in JAX (arXiv 2603.09065).

The public face; see the README for an example.
"""

from adaptive_jax.decoding import sampling
from adaptive_jax.decoding.generate import Completion, generate
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, Policy, PromptObservation
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.learning.environment import prompt
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.parallel import local_mesh
from adaptive_jax.policies.fixed import mixed, static
from adaptive_jax.policies.token import token_adapter
from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.tasks.grading import grade, grade_many
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem

__all__ = [
    "LM",
    "Completion",
    "Observation",
    "Policy",
    "Problem",
    "Prompt",
    "PromptObservation",
    "SamplingParams",
    "Trajectory",
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
    "sampling",
    "static",
    "token_adapter",
]
