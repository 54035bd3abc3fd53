"""Modules from a random initialization: the comparison that shows the worth of the meta-learned one."""

from mclnf_fast.learn.methods.mod import Mod


class ModRandom(Mod):
    """As `Mod`, every module from the same random initialization: learned one after another, not meta-learned."""

    category = "CL"
    initialization = "random"
