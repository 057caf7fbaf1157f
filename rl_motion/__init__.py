"""rl_motion: reinforcement-learning post-training of text-to-motion models from text prompts alone."""

__version__ = "0.1.0"
