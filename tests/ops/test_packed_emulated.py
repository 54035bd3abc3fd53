"""The CUDA kernels of scans and of the traversal over the emulation of CUDA on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_segment_scan import each_kind, each_option, inputs, loop, segments
from test_traverse import GOOD, NESTED, rays_through

from mclnf_fast.ops import traverse_grids


@pytest.mark.usefixtures("poisoned")
@each_kind
@each_option
def test_the_cuda_kernel(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, kind: str, exclusive: bool, reverse: bool
) -> None:
    for order, counts in (("forward", []), ("reverse", [0, 1, 31, 32, 33, 0, 100]), ("random:1", [1] * 9)):
        monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
        info = segments(counts, gap=1)
        factor, term, initial = inputs(kind, sum(counts) + len(counts))
        result = emulated.segment_scan_fwd(factor, term, info, initial, exclusive, reverse)
        wanted = torch.tensor(loop(factor, term, info, initial, exclusive, reverse), dtype=torch.float64)
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-300)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("options", [(0.05, 0.0, 0), (0.05, 0.02, 7), (0.0, 0.0, 0)], ids=str)
def test_the_cuda_kernels(emulated: Any, monkeypatch: pytest.MonkeyPatch, options: tuple[float, float, int]) -> None:
    step, cone, limit = options
    for rays, order in ((0, "forward"), (1, "reverse"), (150, "random:1")):
        monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
        call = rays_through(NESTED, rays, torch.float32)
        cells, mask = torch.rand(2, 5, 3, 4) < 0.5, torch.rand(rays) < 0.9
        wanted = traverse_grids(**call, cells=cells, mask=mask, step=step, cone=cone, limit=limit, backend="reference")
        names = ("aabbs", "enters", "exits", "hits", "near", "far")
        found = emulated.traverse_grids_fwd(
            call["origins"], call["directions"], mask, cells, *(call[n] for n in names), step, cone, limit
        )
        for name, a, b in zip(wanted._fields, found, wanted, strict=True):
            assert torch.equal(a, b), (name, rays)
    bad = {**GOOD, "step": 1e-9}
    with pytest.raises(RuntimeError, match="step must give at most 16777216 steps"):
        emulated.traverse_grids_fwd(
            bad["origins"], bad["directions"], None, bad["cells"], *(bad[n] for n in names), 1e-9, 0.0, 0
        )
