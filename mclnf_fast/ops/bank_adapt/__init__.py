"""The inner loop of meta-learning in one call: gradient steps of every module, differentiable in where they begin."""

from mclnf_fast.ops.bank_adapt.api import bank_adapt
from mclnf_fast.ops.bank_adapt.call import Adapted, Batches

__all__ = ["Adapted", "Batches", "bank_adapt"]
