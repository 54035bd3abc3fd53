"""Optimizers of banks, as `torch.optim` has them: `mf.optim.Adam(bank)`."""

from mclnf_fast.learn.optim import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW"]
