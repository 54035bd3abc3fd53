"""Doors to other libraries: their calls, on this engine."""
