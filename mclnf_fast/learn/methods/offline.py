"""Offline learning: one network, all tasks at once."""

from mclnf_fast.learn.methods.base import Method


class Offline(Method):
    """Plain joint training from a random initialization: what could be reached if nothing came in sequence."""

    category = "OL"
    joint = True
