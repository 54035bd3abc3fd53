"""Modules from a random start: what the meta-learned one of `Mod` is worth."""

from mclnf_fast.learn.methods.mod import Mod


class ModRandom(Mod):
    """As `Mod`, every module from the same random start: learned one after another, not meta-learned."""

    category = "CL"
    initialization = "random"
