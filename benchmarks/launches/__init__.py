"""Counts what a training step starts on a GPU, and how often it waits for it, on a machine without one."""
