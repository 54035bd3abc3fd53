"""Shapes of the blocks of the Fisher kernels, by kind of product. None has been timed on a GPU yet.

Compiled for sm_80, sm_90 and sm_100: the sums of points spill 370 bytes with four warps and up to 136 with eight, those
of samples 40 with four.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SampleBlock:
    """A block of a layer's weights, `side` inputs times as many outputs, and the points that go by at a time."""

    side: int
    depth: int
    warps: int
    stages: int

    def depth_of(self, features: bool) -> int:
        """Return the points that go by at a time: no more than 32 of a layer that takes features, which are float32 and
        multiplied twice."""
        return min(self.depth, 32) if features else self.depth


# Of points, and of samples of many points. Points take a third product, for which four warps have no registers.
POINTS: dict[str, SampleBlock] = {
    "bf16": SampleBlock(64, 64, 8, 3),
    "fp16": SampleBlock(64, 64, 8, 2),
    "tf32": SampleBlock(64, 32, 8, 3),
    "ieee": SampleBlock(32, 16, 4, 3),
}
SAMPLES: dict[str, SampleBlock] = {
    "bf16": SampleBlock(64, 64, 4, 3),
    "fp16": SampleBlock(64, 64, 4, 3),
    "tf32": SampleBlock(64, 32, 4, 3),
    "ieee": SampleBlock(32, 16, 4, 3),
}
CHUNKS = 512  # of all modules together, about
REDUCED_CHUNKS, REDUCED = 8, 512  # chunks and parameters that a reduction takes at a time
