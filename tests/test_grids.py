"""HashGrid and TriPlane as plain data: sizes, layouts, what is refused, and their place in a field's description."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest

import mclnf_fast as mf
from mclnf_fast import spec as sp
from mclnf_fast.grids import GridLevel, GridPart

SMALL = mf.HashGrid(3, 2, 6, base=2, growth=2.0)


def test_the_papers_resolutions() -> None:
    """floor(16 b^l) with b = exp((ln 2048 - ln 16) / 15); the first levels are dense."""
    grid = mf.HashGrid()
    growth = math.exp((math.log(2048) - math.log(16)) / 15)
    assert grid.cells == tuple(math.floor(16 * growth**l + 1e-9) for l in range(16))
    assert grid.cells[0] == 16
    assert grid.cells[-1] == 2048
    levels = grid.layout(3).levels
    assert [level.hashed for level in levels] == [(level.cells + 1) ** 3 > 2**19 for level in levels]
    assert levels[0].entries == 17**3
    assert levels[-1].entries == 2**19
    assert grid.layout(3).entries == sum(level.entries for level in levels)
    assert mf.HashGrid(finest=512, levels=6).cells == (16, 32, 64, 128, 256, 512)
    assert mf.HashGrid(growth=2.0, levels=6).cells == (16, 32, 64, 128, 256, 512)
    assert mf.HashGrid(growth=1.5, levels=4, base=4).cells == (4, 6, 9, 13)
    assert mf.HashGrid(levels=1, base=7).cells == (7,)


def test_layout_of_a_small_hash_grid() -> None:
    assert SMALL.layout(2).levels == (
        GridLevel(2, 0, 9, False, (0, 1)),
        GridLevel(4, 9, 25, False, (0, 1)),
        GridLevel(8, 34, 64, True, (0, 1)),
    )
    assert SMALL.layout(2)[1:3] == (98, 2)
    assert [level.hashed for level in SMALL.layout(1).levels] == [False] * 3
    assert SMALL.out_dim(4) == 6


def test_layout_of_a_tri_plane() -> None:
    assert mf.TriPlane(4, 5).layout(3).levels == (
        GridLevel(4, 0, 25, False, (0, 1)),
        GridLevel(4, 25, 25, False, (0, 2)),
        GridLevel(4, 50, 25, False, (1, 2)),
    )
    assert [mf.TriPlane(4, 5, r).out_dim(3) for r in ("sum", "concat", "product")] == [4, 12, 4]


def test_a_field_with_grids() -> None:
    encoding = mf.Composite(((SMALL, 2), (mf.Identity(), 1), (mf.Composite(((mf.TriPlane(4, 5), 3),)), 3)))
    spec = mf.FieldSpec(6, 2, 8, 2, encoding=encoding, skips=(1,))
    assert spec.grids == (GridPart(SMALL, 0, 2), GridPart(mf.TriPlane(4, 5), 3, 3))
    assert spec.grid_shapes == ((98, 2), (75, 4))
    assert spec.encoded_dim == 6 + 1 + 4
    assert spec.num_parameters == (11 + 1) * 8 + (8 + 11 + 1) * 8 + 9 * 2 + 98 * 2 + 75 * 4
    assert spec.mlp == mf.FieldSpec(
        11,
        2,
        8,
        2,
        encoding=mf.Composite(((mf.Identity(), 6), (mf.Identity(), 1), (mf.Composite(((mf.Identity(), 4),)), 4))),
        skips=(1,),
    )
    assert spec.mlp.layer_shapes == spec.layer_shapes
    assert spec.mlp.grids == ()
    assert spec.mlp.mlp is spec.mlp
    with pytest.raises(ValueError, match="a spec with a grid has no packed description"):
        _ = spec.packed
    for again in (sp.from_dict(json.loads(json.dumps(sp.to_dict(spec)))), pickle.loads(pickle.dumps(spec))):
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.grid_shapes == spec.grid_shapes
    assert copy.deepcopy(SMALL).layout(3) == SMALL.layout(3)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: mf.HashGrid(0), "levels must be an int of at least 1, got 0"),
        (lambda: mf.HashGrid(65), "levels must be at most 64, got 65"),
        (lambda: mf.HashGrid(features=0), "features must be an int of at least 1, got 0"),
        (lambda: mf.HashGrid(log2_size=31), "log2_size must be at most 30, got 31"),
        (lambda: mf.HashGrid(base=1.5), "base must be an int .*got 1.5"),
        (lambda: mf.HashGrid(growth=0.9), "growth must be a finite number of at least 1, got 0.9"),
        (lambda: mf.HashGrid(growth=math.nan), "growth must be .*got nan"),
        (lambda: mf.HashGrid(growth=2.0, finest=64), "give growth or finest, not both, got 2.0 and 64"),
        (lambda: mf.HashGrid(finest=15), "finest must be an int of at least 16, got 15"),
        (lambda: mf.HashGrid(1, finest=32), "finest must be base = 16 with one level, got 32"),
        (lambda: mf.HashGrid(growth=3.0), "the finest level must have at most 1048576 cells"),
        (lambda: mf.HashGrid(interpolation="cubic"), "interpolation must be one of nearest, .*got 'cubic'"),
        (lambda: mf.HashGrid(low=1.0), "low must be below high, got 1.0 and 1.0"),
        (lambda: mf.HashGrid(high=math.inf), "high must be a finite number, got inf"),
        (lambda: mf.HashGrid(low="0"), "low must be a finite number, got '0'"),
        (lambda: mf.TriPlane(0), "features must be an int of at least 1, got 0"),
        (lambda: mf.TriPlane(4, 1), "resolution must be an int of at least 2, got 1"),
        (lambda: mf.TriPlane(4, 1 << 15), "resolution must be at most 16384, got 32768"),
        (lambda: mf.TriPlane(4, 4, "max"), "reduce must be one of sum, concat, product, got 'max'"),
        (lambda: mf.TriPlane(4, 4, low=2.0), "low must be below high"),
        (lambda: mf.FieldSpec(5, 1, encoding=mf.HashGrid()), "HashGrid: needs 1 or 2 or 3 or 4 coordinates, got 5"),
        (lambda: mf.FieldSpec(2, 1, encoding=mf.TriPlane()), "TriPlane: needs 3 coordinates, got 2"),
        (lambda: SMALL.parts(0, 2), "HashGrid is learned and is no part of the fused network"),
        (lambda: mf.HashGrid(2, 16, 30).layout(4), "a level's table must have fewer than 2"),
    ],
)
def test_refused_arguments(build, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
