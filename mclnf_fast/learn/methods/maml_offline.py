"""MAML offline: a meta-learned initialization, all tasks at once."""

from mclnf_fast.learn.methods.base import Method


class MAMLOffline(Method):
    """Joint training from the initialization that MAML (arXiv 1703.03400) learned for whole signals: the upper
    reference."""

    category = "MOL"
    initialization = "joint"
    joint = True
