"""Large rollouts as files: `python -m adaptive_jax rollout`, its prompts, its columns, and the directory that it writes."""
