"""Whole systems, one folder each, composed of the rooms below; `System` registers one, here or from a plugin."""

from mclnf_fast.systems.common.callbacks.base import Callback, Watched, calling
from mclnf_fast.systems.registry import SYSTEMS, System, find_system, system_names

__all__ = ["SYSTEMS", "Callback", "System", "Watched", "calling", "find_system", "system_names"]
