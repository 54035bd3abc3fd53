"""The arithmetic behind the Triton launches: tiles, chunks, grids, columns. Needs neither Triton nor a GPU."""

from __future__ import annotations

import pytest
import torch
from bank_cases import ENCODINGS, make
from hypothesis import given
from hypothesis import strategies as st

import mclnf_fast as mf
from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.ops.triton import launch, table


@given(st.lists(st.integers(0, 300), max_size=30), st.sampled_from([16, 32, 64, 128]))
def test_tiles_cover_every_point_once(counts: list[int], rows: int) -> None:
    found = launch.starts(torch.tensor(counts, dtype=torch.int64), rows).tolist()
    assert found[0] == 0
    assert len(found) == len(counts) + 1
    for m, count in enumerate(counts):
        tiles = found[m + 1] - found[m]
        assert (tiles - 1) * rows < count <= tiles * rows or count == tiles == 0
    assert found[-1] <= launch.most_tiles(sum(counts), len(counts), rows)


@given(st.integers(1, 1 << 40))
def test_chunks_depend_on_the_problem_and_are_few(tiles: int) -> None:
    per_chunk = launch.tiles_per_chunk(tiles)
    assert -(-tiles // per_chunk) <= launch.CHUNKS
    assert per_chunk == 1 or tiles > launch.CHUNKS


def test_grids_have_a_program_and_no_idle_ones() -> None:
    assert launch.grid(0, 100) == (1,)
    assert launch.grid(7, 100) == (7,)
    assert launch.grid(1 << 40, 528) == (528,)


def test_large_problems_stay_in_range() -> None:
    """More than 2^31 values of x, y and weights: tiles are counted in 32 bits, places in memory in 64."""
    points, modules = 3 * 10**9, 4096
    assert launch.most_tiles(points, modules, table.SMALL_TILE) < 2**31
    counts = torch.full((modules,), points // modules)
    assert int(launch.starts(counts, table.SMALL_TILE)[-1]) == modules * -(-(points // modules) // table.SMALL_TILE)


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e not in ("spherical", "composite")])
def test_the_columns_are_the_encoding(encoding: str) -> None:
    in_dim, kind = ENCODINGS[encoding]
    spec = mf.FieldSpec(in_dim, 2, 8, 2, "tanh", "sigmoid", kind, skips=(1, 2))
    x = make(spec, [5, 0, 4], torch.float64).x
    net = launch.network(*spec.packed)
    assert net.shapes == spec.layer_shapes
    assert net.parameters == spec.num_parameters
    dims, frequency, half = launch.column_table(net, x.device).double()
    v = x[:, dims.long()]
    features = torch.where(half < 0, v, (v * frequency + half * torch.pi).sin())
    torch.testing.assert_close(features, reference.encode(kind, x), rtol=0, atol=1e-6)


@given(st.integers(0, 1 << 22), st.integers(1, 1 << 14))
def test_pieces_cover_every_point_once(points: int, values: int) -> None:
    found = launch.pieces(points, values)
    assert [first for first, _ in found] == [0, *(last for _, last in found)][: len(found)]
    assert (found[-1][1] if found else 0) == points
    for first, last in found:
        assert first < last
        assert first % 128 == 0  # as well aligned as the whole
        assert last - first <= max(launch.PIECE_POINTS, launch.PIECE_VALUES // values) + 128


def test_another_encoding_is_refused() -> None:
    spec = mf.FieldSpec(3, 2, 8, 1, encoding=mf.SphericalHarmonics(2))
    with pytest.raises(ValueError, match="got another encoding"):
        launch.network(*spec.packed)


def test_small_modules_take_small_tiles() -> None:
    assert launch.small_modules(16 * 4096, 4096, 128)
    assert not launch.small_modules(64 * 4096, 4096, 128)
    for kind in ("half", "tf32", "ieee"):
        for width in (16, 32, 64, 128, 256):
            for arch in table.TABLES:
                pair = table.built_in(arch).forward_shapes(kind, width)
                assert pair is None or pair[1].rows == table.SMALL_TILE <= pair[0].rows
    assert table.built_in(80).forward_shapes("half", 256) is None
    assert table.built_in(80).backward_shapes("half", 64, 10**4) is None
