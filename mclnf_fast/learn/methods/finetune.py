"""Fine-tuning: one network, task after task, and nothing is done against forgetting."""

from mclnf_fast.learn.methods.base import Method


class FineTune(Method):
    """theta <- theta - Adam(grad L_k(theta)) on task k alone: the lower bound of continual learning."""
