"""The CUDA library of mclnf_fast, which looks for it here if it has none of its own."""

__version__ = "0.1.0"
