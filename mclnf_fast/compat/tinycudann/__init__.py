"""The PyTorch modules of tiny-cuda-nn, on this engine: `import mclnf_fast.compat.tinycudann as tcnn`."""

from mclnf_fast.compat.tinycudann.modules import (
    Encoding,
    Module,
    Network,
    NetworkWithInputEncoding,
    free_temporary_memory,
    supports_jit_fusion,
)

__all__ = [
    "Encoding",
    "Module",
    "Network",
    "NetworkWithInputEncoding",
    "free_temporary_memory",
    "supports_jit_fusion",
]
