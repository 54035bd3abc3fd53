"""Which table of tiles a device takes, its file, and the search for the fastest by a timer that is told what to say."""

from __future__ import annotations

import json
import logging
import pathlib
import types
from collections.abc import Callable

import pytest
import torch
from bank_cases import make

import mclnf_fast as mf
from mclnf_fast.errors import InputError
from mclnf_fast.ops.triton import table
from mclnf_fast.ops.triton.table import Shape, Tiles

tiles = pytest.importorskip("mclnf_fast.ops.triton.tiles")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCLNF_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MCLNF_FAST_TILES", raising=False)


def other() -> Tiles:
    """A table that is not the package's own."""
    _, small = table.FORWARD["half", 64]
    limits = table.BACKWARD["half", 64]
    return Tiles(
        {**table.FORWARD, ("half", 64): (Shape(64, 4, 2), small)},
        {**table.BACKWARD, ("half", 64): ((Shape(64, 8), limits[0][1]), limits[1])},
        Shape(128, 8, 2), 128, 64, {**table.WEIGHT_GRADIENT, "ieee": (64, 16)},
    )  # fmt: skip


@pytest.mark.parametrize(("arch", "taken"), [(75, 80), (80, 80), (86, 80), (89, 80), (90, 90), (95, 90), (103, 100)])
def test_an_unknown_architecture_takes_the_nearest_older_one(
    arch: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        known: Tiles(table.FORWARD, table.BACKWARD, Shape(64, 4, 3), known, 32, table.WEIGHT_GRADIENT)
        for known in table.TABLES
    }
    monkeypatch.setattr(table, "TABLES", own)
    assert table.built_in(arch) is own[taken]


def test_a_device_takes_the_table_of_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    tiles._capability.cache_clear()
    assert tiles.architecture(torch.device("cuda", 0)) == 90
    assert tiles.architecture(CPU) == 80
    tiles._capability.cache_clear()
    assert tiles.tiles(CPU) is table.built_in(80)


def test_a_file_comes_back_as_it_was(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "tiles.json"
    tiles.write(path, other(), 90, "a device")
    assert tiles.read(path, 90) == other()
    plain = json.loads(path.read_text())
    assert plain["device"] == "a device"
    assert plain["forward"]["half 64"] == [[64, 4, 2], [16, 4, 1]]
    assert [p.name for p in path.parent.iterdir()] == ["tiles.json"]


def test_the_file_in_the_cache_is_taken_and_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiles.default_path(80)
    assert path.parent.name == "cache"
    assert "sm80" in path.name
    tiles.write(path, other(), 80, "a device")
    assert tiles.tiles(CPU) == other()
    monkeypatch.setenv("MCLNF_FAST_TILES", "off")
    assert tiles.tiles(CPU) is table.built_in(80)
    elsewhere = path.with_name("mine.json")
    tiles.write(elsewhere, other(), 80, "a device")
    monkeypatch.setenv("MCLNF_FAST_TILES", str(elsewhere))
    assert tiles.tiles(CPU) == other()


def broken(change: Callable[[dict], object]) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        tiles.write(path, other(), 80, "a device")
        plain = json.loads(path.read_text())
        change(plain)
        path.write_text(json.dumps(plain))

    return write


BROKEN: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "missing": (lambda path: None, "no table of tiles can be read"),
    "no json": (lambda path: path.write_text("{"), "no table of tiles can be read"),
    "no bytes of text": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "no table of tiles can be read"),
    "a list": (lambda path: path.write_text("[]"), "is no table of tiles"),
    "another architecture": (broken(lambda p: p.update(architecture=90)), "for sm_80, is one of format 1 for sm_90"),
    "another format": (broken(lambda p: p.update(format=2)), "is one of format 2"),
    "an entry less": (broken(lambda p: p["forward"].pop("half 64")), "the entries must be"),
    "an entry more": (broken(lambda p: p["backward"].update({"ieee 64": []})), "the entries must be"),
    "odd rows": (broken(lambda p: p.update(layer=[48, 4, 1])), "power of two from 16 to 512, got 48"),
    "few rows": (broken(lambda p: p.update(layer=[8, 4, 1])), "power of two from 16 to 512, got 8"),
    "many warps": (broken(lambda p: p.update(layer=[64, 32, 1])), "power of two from 1 to 16, got 32"),
    "many stages": (broken(lambda p: p.update(layer=[64, 4, 9])), "stages must be 1 to 8, got 9"),
    "no stages": (broken(lambda p: p.update(layer=[64, 4, 0])), "must be an int of at least 1, got 0"),
    "two numbers": (broken(lambda p: p.update(layer=[64, 4])), "is no table of tiles"),
    "a fraction": (broken(lambda p: p.update(depth=32.0)), "must be an int of at least 1, got 32.0"),
    "a truth": (broken(lambda p: p.update(columns=True)), "must be an int of at least 1, got True"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_used_is_reported_once(
    kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_it, said = BROKEN[kind]
    path = tmp_path / "tiles.json"
    make_it(path)
    with pytest.raises(InputError, match=said):
        tiles.read(path, 80)
    monkeypatch.setenv("MCLNF_FAST_TILES", str(path))
    with caplog.at_level(logging.WARNING, logger="mclnf_fast"):
        assert all(tiles.tiles(CPU) is table.built_in(80) for _ in range(3))
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert record.getMessage().endswith("the tiles that come with the package are taken")


def test_the_kernels_take_the_table(need, gpu_or_cpu: str) -> None:
    """Another table, other tiles, and values as good as before."""
    need("bank_mlp", "triton", device=gpu_or_cpu)
    from mclnf_fast.ops.triton.bank import Bank
    from mclnf_fast.ops.triton.launch import network

    for width in (16, 200):
        case = make(mf.FieldSpec(3, 4, width, 1), [70, 40]).on(gpu_or_cpu).require()
        bank = (network(*case.spec.packed), case.x.detach(), case.offsets, tuple(case.weights), tuple(case.biases))
        grads = []
        for own in (table.built_in(80), other()):
            with tiles.using(own):
                made = Bank(*bank)
                assert made.table is own
                assert made.layer_block(own.layer).columns == own.columns
                assert made.weight_gradient_block().rows == own.weight_gradient["ieee"][0]
                grads.append(torch.autograd.grad(case.run("triton").square().sum(), case.leaves))
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


SIZES = ((48, 2), (20, 3), (40, 2))


def search(only: str, seconds: Callable[[Tiles], float]) -> tuple[Tiles, list]:
    """A search with a timer that judges the table in use."""
    from mclnf_fast.ops.bank_mlp.triton import tune

    def timer(call: Callable[[], object]) -> float:
        call()
        return seconds(tiles.tiles(CPU))

    return tune.tune(CPU, timer, tune.Sizes(*SIZES), only, lambda line: None)


@pytest.mark.parametrize("size", ["large", "small"])
def test_the_fastest_is_chosen_and_the_rest_stays(need, size: str) -> None:
    need("bank_mlp", "triton")
    wanted = {"large": Shape(32, 8), "small": Shape(16, 8)}[size]

    def seconds(own: Tiles) -> float:
        large, small = own.forward["half", 64]
        assert large == small  # taken whatever the modules' size
        return 1.0 if large == wanted else 2.0

    found, (row,) = search(f"forward half 64 {size}", seconds)
    own = table.built_in(80)
    place = ("large", "small").index(size)
    assert found.forward["half", 64][place] == wanted
    assert found.forward["half", 64][1 - place] == own.forward["half", 64][1 - place]
    assert {k: v for k, v in found.forward.items() if k != ("half", 64)} == {
        k: v for k, v in own.forward.items() if k != ("half", 64)
    }
    assert (found.backward, found.layer, found.weight_gradient) == (own.backward, own.layer, own.weight_gradient)
    assert (row.best, row.best_seconds, row.seconds, row.refused) == (wanted, 1.0, 2.0, {})


def test_the_backward_keeps_its_limits(need) -> None:
    need("bank_mlp", "triton")
    found, _ = search("backward half 64 small", lambda own: float(own.backward["half", 64][1][0].warps))
    own = table.built_in(80).backward["half", 64]
    assert found.backward["half", 64] == (own[0], (Shape(16, 4), own[1][1]))


def test_blocks_of_weight_gradients(need, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.ops.bank_mlp.triton import candidates, tune

    entry = next(e for e in candidates.entries(table.built_in(80)) if e.name == "outer ieee")
    narrow = [candidates.dataclasses.replace(entry, width=16, options=[(32, 32), (64, 16)])]
    monkeypatch.setattr(tune, "entries", lambda own: narrow)
    found, (row,) = search("outer*", lambda own: {(64, 16): 1.0}.get(own.weight_gradient["ieee"], 3.0))
    assert found.weight_gradient == {**table.WEIGHT_GRADIENT, "ieee": (64, 16)}
    assert row.tried == 3


def test_kernels_that_are_wrong_or_fail_are_refused(need, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.ops.bank_mlp.triton import tune

    now = lambda: tiles.tiles(CPU).forward["half", 64][0]  # noqa: E731
    agrees = tune.agrees

    def judged(*given) -> bool:
        if now() == Shape(64, 4):
            raise RuntimeError("out of resource: shared memory\nmore")
        return agrees(*given) and now() != Shape(16, 4)

    monkeypatch.setattr(tune, "agrees", judged)
    found, (row,) = search("forward half 64 large", lambda own: float(own.forward["half", 64][0].rows))
    assert found.forward["half", 64][0] == Shape(16, 8)
    assert row.refused == {
        str(Shape(16, 4)): "its results are wrong",
        str(Shape(64, 4)): "RuntimeError: out of resource: shared memory",
    }


def test_a_kernel_that_spills_is_timed_like_any_other(need, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.ops.bank_mlp.triton import forward

    compiled: list[types.SimpleNamespace] = []

    class Caches:
        """Of a kernel that is compiled anew, and spills, each time that somebody looks."""

        def values(self) -> list[tuple[dict[int, types.SimpleNamespace]]]:
            compiled.append(types.SimpleNamespace(n_spills=99))
            return [(dict(enumerate(compiled)),)]

    monkeypatch.setattr(forward.fused_forward, "device_caches", Caches(), raising=False)
    fastest = Shape(32, 4)
    found, (row,) = search("forward half 64 large", lambda own: float(own.forward["half", 64][0] != fastest))
    assert (found.forward["half", 64][0], row.refused) == (fastest, {})


def test_where_nothing_counts_the_entry_stays(need, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.ops.bank_mlp.triton import tune

    monkeypatch.setattr(tune, "agrees", lambda *given: False)
    found, (row,) = search("forward half 64 small", lambda own: 1.0)
    assert found == table.built_in(80)
    assert (row.seconds, row.best_seconds, row.tried, len(row.refused)) == (None, None, 0, 2)


def test_wrong_results_and_nan_are_found() -> None:
    tune = pytest.importorskip("mclnf_fast.ops.bank_mlp.triton.tune", reason="triton is not installed")
    truth, near, far = [torch.ones(9, dtype=torch.float64)], [torch.ones(9)], [torch.ones(9) * 1.001]
    assert tune.agrees(near, near, truth, "ieee")
    assert not tune.agrees(far, near, truth, "ieee")
    assert tune.agrees(far, far, truth, "ieee")  # PyTorch does no better
    assert tune.agrees(far, near, truth, "tf32")
    assert not tune.agrees([torch.full((9,), torch.nan)], near, truth, "half")


def test_results_that_change_are_found(need, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.ops.bank_mlp.triton import tune

    call, count = tune.Problem.call, iter(range(10**6))
    monkeypatch.setattr(tune.Problem, "call", lambda self, back: [t + 1e-2 * next(count) for t in call(self, back)])
    monkeypatch.setattr(tune, "agrees", lambda *given: True)
    found, (row,) = search("forward half 64 small", lambda own: 1.0)
    assert found == table.built_in(80)
    assert set(row.refused.values()) == {"its results are not the same twice"}


def test_the_command(need, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.cli import main

    path = tmp_path / "found.json"
    assert main(["tune", "--dry-run", "--only", "forward half 64 small", "--out", str(path)]) == 0
    said = capsys.readouterr().out
    assert "forward half 64 small" in said
    assert f"saved in {path}" in said
    with pytest.raises(InputError, match="for sm_80, is one of format 1 for sm_0"):
        tiles.read(path, 80)
    assert main(["tune", "--dry-run", "--only", "nothing"]) == 2
    assert "--only must take an entry, got 'nothing'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_without_a_gpu(need, capsys: pytest.CaptureFixture[str]) -> None:
    need("bank_mlp", "triton")
    from mclnf_fast.cli import main

    assert main(["tune"]) == 2
    assert "tune needs a GPU, torch sees none" in capsys.readouterr().err
