"""Squared error of a bank's fields against samples of their signals."""

from mclnf_fast.ops.bank_mse.api import bank_mse

__all__ = ["bank_mse"]
