"""Many steps of many modules in one call: draws, losses, gradients and optimizer."""

from mclnf_fast.ops.bank_fit.api import bank_fit
from mclnf_fast.ops.bank_fit.guide import Guide, GuideState
from mclnf_fast.ops.bank_fit.schedule import Schedule
from mclnf_fast.ops.bank_fit.types import Draws, FitData, FitLog, FitRays, FitRule, FitState, PrecisionName, Watch
from mclnf_fast.packing import FitEnd

__all__ = [
    "Draws",
    "FitData",
    "FitEnd",
    "FitLog",
    "FitRays",
    "FitRule",
    "FitState",
    "Guide",
    "GuideState",
    "PrecisionName",
    "Schedule",
    "Watch",
    "bank_fit",
]
