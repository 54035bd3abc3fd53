"""MAML+CL: a meta-learned initialization, then ordinary sequential training."""

from mclnf_fast.learn.methods.base import Method


class MAMLCL(Method):
    """Fine-tuning task after task from the initialization that MAML (arXiv 1703.03400) learned for whole signals."""

    category = "CML"
    initialization = "joint"
