"""Optimizers of banks: `Adam`, `AdamW` and `SGD` as torch has them, and `BankOptimizer`, which takes gradients."""

from mclnf_fast.learn.optim.bank import BankOptimizer
from mclnf_fast.learn.optim.optimizers import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW", "BankOptimizer"]
