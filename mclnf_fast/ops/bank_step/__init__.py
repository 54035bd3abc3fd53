"""One optimizer step of a whole bank, in place: SGD or Adam, with the trust region in the same pass."""

from mclnf_fast.ops.bank_step.api import bank_step, check_betas
from mclnf_fast.ops.bank_step.reference import Decay, StepKind, Trust

__all__ = ["Decay", "StepKind", "Trust", "bank_step", "check_betas"]
