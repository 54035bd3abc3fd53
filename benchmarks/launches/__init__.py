"""Counts what a training step starts on a GPU, and how often it waits for it, on a machine without one."""

import os

# What would be compiled is counted: under the interpreter kernels are other objects, and serve CPU tensors.
os.environ.pop("TRITON_INTERPRET", None)
