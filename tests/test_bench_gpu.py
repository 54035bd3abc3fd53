"""`mclnf-fast bench --suite gpu`: its cases hold together at tiny sizes on a CPU, its clock and limits do what they
say, and without a GPU it says what it needs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import pytest
import torch

import mclnf_fast as mf
import mclnf_fast.cli as cli
from mclnf_fast import render
from mclnf_fast.ops.triton.precision import precision
from mclnf_fast.render import Cells

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # benchmarks/ is no part of the package

from benchmarks import cases, command, correctness, device, limit, machine, memory, peers, rates, runner, table, work
from benchmarks.contender import Contender
from benchmarks.peers import tinycudann_peer

GPU = cases.load_suite("gpu")
TINY = cases.tiny(GPU)
SHAPES = {"modules": 2, "points": 64, "width": 16, "hidden": 1, "octaves": 2}


def case_of(**changed: Any) -> cases.Case:
    return dataclasses.replace(cases.Case("tiny", "forward", "cpu", SHAPES), **changed)


def test_the_shipped_cases_fit_together() -> None:
    for case in GPU.cases:
        assert case.device == "cuda"
        assert case.op in work.FILES
        assert case.limit in (None, "matmul", "copy"), case.id
        names = {"ours", "ours, first order", "ours, forward + backward", "ours, uniform draws", *case.peers}
        names |= {variant["name"] for variant in case.variants}
        for peer in case.peers:
            assert case.op in peers._file(peer).OPS, (case.id, peer)
        for bar in case.bars:
            assert set(bar.against) <= names, case.id
        assert set(case.memory) <= names


def test_the_bars_are_those_of_the_design() -> None:
    found = {(c.id, b.what): (b.must, b.aim) for c in GPU.cases for b in c.bars if b.must is not None}
    for modules in (16, 1024):
        for width in (64, 128):
            assert found.pop((f"forward/{modules}x{width}/bf16", "limit_share")) == (0.25, 0.45)
    for dtype in ("fp32", "tf32"):
        assert found.pop((f"fisher/all/{dtype}", "time_ratio")) == (1.75, 1.35)
        assert found.pop((f"nerf/{dtype}", "speedup")) == (5.0, 10.0)
        assert found.pop((f"maml/{dtype}", "time_ratio")) == (4.0, 3.0)
    for name in ("forward", "backward"):
        assert found.pop((f"modules/{name}", "spread")) == (1.5, 1.15)
    for name in ("1x64", "1x128", "16x64"):
        assert found.pop((f"tcnn/forward/{name}/bf16", "speedup")) == (1.0, None)
    for dtype in ("fp32", "tf32"):
        assert found.pop((f"loop/132x64/{dtype}", "seconds")) == (0.2, 0.06)
    assert found.pop(("pictures/10000", "seconds")) == (10.0, None)
    assert found == {}
    quick = {c.id for c in cases.pick(GPU, None, quick=True)}
    assert {"forward/16x64/bf16", "forward/16x128/bf16", "fisher/all/tf32", "nerf/tf32"} <= quick


def test_a_row_of_several_dtypes_is_a_case_each() -> None:
    row = {"id": "a", "op": "forward", "title": "forward", "dtypes": ["bfloat16", "tf32"], "shapes": {"width": 8}}
    suite = cases.read_suite({"device": "cuda", "seconds": 1, "shapes": {"dtype": "float32"}, "cases": [row]}, "x")
    assert [(c.id, c.title, c.shapes) for c in suite.cases] == [
        ("a/bf16", "forward, bf16", {"dtype": "bfloat16", "width": 8}),
        ("a/tf32", "forward, tf32", {"dtype": "tf32", "width": 8}),
    ]


# Of each problem and dtype the case with the most peers.
KINDS = {
    (case.op, case.shapes.get("bias"), case.shapes["dtype"]): case
    for case in sorted(TINY.cases, key=lambda case: len(case.peers))
    if not case.variants
}


@pytest.mark.parametrize("case", KINDS.values(), ids=[case.id for case in KINDS.values()])
def test_every_kind_of_case_is_right_at_tiny_sizes(case: cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_renderer(monkeypatch)
    result = runner.run_case(dataclasses.replace(case, time=False, memory=()), 0.0, skip=("compile",))
    assert result["status"] == "ok", result["reason"]
    assert {row["name"]: row["reason"] for row in result["contenders"] if row["reason"]} == {}
    there = {row["peer"] for row in result["contenders"]} - {""}
    assert there | set(result["absent"]) == set(case.peers)
    assert not [reason for reason in result["absent"].values() if reason.startswith("failed")]


@pytest.mark.parametrize("case", KINDS.values(), ids=[case.id for case in KINDS.values()])
def test_every_tensor_is_on_the_device_of_the_case(case: cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device `meta` have no values and do not mix with a CPU's, as those of a GPU do not. What looks at
    values (our ops, whose samples are counted) stays out."""
    monkeypatch.setattr(Cells, "__post_init__", lambda self: None)
    problem = work.make(dataclasses.replace(case, device="meta"))
    own = {name: t for name, t in vars(problem).items() if isinstance(t, torch.Tensor) and name != "given"}
    assert {name for name, t in own.items() if t.device.type != "meta"} == set()
    if case.op in ("march", "composite", "composite_backward", "render_rays", "fit_guided", "fit_rays"):
        return
    assert {t.device.type for t in problem.truth().values()} == {"meta"}
    if case.op in ("fit_loop", "fit_pictures"):  # torch's fused Adam works on none
        return
    found = 0
    for name in case.peers:
        # Compiled, or not on such tensors: adam fused.
        if name not in ("compile", "adam fused") and peers.missing(name) is None:
            values = problem.prepared(peers.contender(name, case.op, problem)).values()
            assert {t.device.type for t in values.values()} == {"meta"}, name
            found += 1
    assert found or not case.shapes.get("bias", True)


def test_variants_are_right_at_tiny_sizes() -> None:
    case = next(c for c in TINY.cases if c.id == "modules/backward")
    result = runner.run_case(dataclasses.replace(case, time=False), 0.0)
    assert result["status"] == "ok", result["reason"]
    assert len(result["contenders"]) == 2 * len(case.variants)


def fake_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused renderer, as the cases call it, done by the ops one by one."""

    def render_fused(*given: Any, occupancy: Any = None, early_stop_eps: float = 1e-4) -> Any:
        with torch.no_grad():
            return render.render_modules(*given, occupancy=occupancy)

    monkeypatch.setattr(render, "render_fused", render_fused, raising=False)
    monkeypatch.setattr(mf.ops, "render_rays", render_fused, raising=False)


def test_without_the_fused_renderer_its_case_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mf.ops, "render_rays", raising=False)
    result = runner.run_case(next(c for c in TINY.cases if c.op == "render_rays"), 0.0)
    assert (result["status"], result["reason"]) == ("skipped", "mclnf_fast.ops has no render_rays yet")


def test_a_renderer_that_leaves_a_sample_out_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_renderer(monkeypatch)
    right = render.render_fused

    def wrong(*given: Any, **options: Any) -> Any:
        *rest, settings = given
        return right(*rest, dataclasses.replace(settings, near=3.5), **options)

    monkeypatch.setattr(render, "render_fused", wrong)
    result = runner.run_case(next(c for c in TINY.cases if c.op == "render_rays"), 0.0)
    assert result["status"] == "red"


def test_without_a_gpu_it_reports_its_needs(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--suite", "gpu"]) == 2
    line = capsys.readouterr().err
    assert "--suite gpu needs a CUDA GPU of compute capability 8.0 or newer" in line
    assert torch.__version__ in line
    assert cli.main(["bench", "--suite", "gpu", "--list"]) == 0


def test_a_gpu_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old One")
    assert str(device.unfit("cuda")).endswith("; Old One has 7.5")
    assert device.unfit("cpu") is None


def test_a_dry_run_reports_that_its_figures_do_not_count(capsys, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "--suite", "gpu", "--dry-run", "--only", "tcnn/forward/1x64,adam/16", "--out", str(out)]
    assert cli.main(words) == 0
    assert "dry run at tiny sizes, no figure counts" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert (data["device"], data["settings"]["dry_run"]) == ("cpu", True)
    assert data["cases"][0]["shapes"]["points"] == cases.TINY["points"]
    assert data["limits"]["matmul bfloat16"]["median"] > 0


def test_the_clock_overwrites_the_cache_outside_of_the_timed_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events on a stream that does all at once: a clock that moves where work is done."""
    now, order = [0.0], []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = 0.0

        def record(self) -> None:
            order.append("event")
            self.at = now[0]

        def elapsed_time(self, other: Event) -> float:
            return (other.at - self.at) * 1e3

    class Buffer:
        def zero_(self) -> None:
            order.append("flush")
            now[0] += 100.0

    takes = iter([9.0, 1.0, 2.0, 60.0])  # the first warms up

    def run() -> None:
        order.append("run")
        now[0] += next(takes)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(device, "_flushed", Buffer)
    monkeypatch.setattr(device.timing, "WARM", 0.0)
    assert device.slot(Contender("a", run, share=0.5), 3) == pytest.approx(4.0)  # the median, of the whole
    assert order == ["run"] + ["flush", "event", "run", "event"] * 3


def test_a_slot_of_many_short_runs_is_bounded() -> None:
    counts: list[int] = []

    def slot(contender: Contender, times: int) -> float:
        counts.append(times)
        return 1e-6

    device.timing.in_turn([Contender("a", lambda: None)], 0.0, slot=slot, most=device.MOST_RUNS)
    assert counts == [1, 200, 200, 200]
    assert device.clock("cpu") == {}
    assert device.clock("cuda") == {"slot": device.slot, "most": 200, "long": device.LONG}


@pytest.mark.parametrize("dtype", rates.DTYPES)
def test_the_limit_of_a_case_is_that_of_its_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(rates, "_seconds", lambda run, where: (run(), seen.append(precision(torch.float32)), 1e-3)[2])
    found = limit.meter("matmul", "cpu", dtype)
    assert found is not None
    assert found() == pytest.approx(2 * rates.CPU_SIDE**3 / 1e-3 * 1e-12)
    assert rates._factors("cpu", dtype)[2].dtype == rates.DTYPES[dtype]
    assert bool(rates._factors("cpu", dtype)[2].isfinite().all())
    assert set(seen) == {"tf32" if dtype == "tf32" else "ieee"}
    assert precision(torch.float32) == "ieee"


def test_precision_is_set_for_a_run_and_given_back() -> None:
    seen: list[str] = []
    problem = work.make(case_of(shapes={**SHAPES, "dtype": "tf32"}))
    problem.prepared(Contender("a", lambda: seen.append(precision(torch.float32)))).run()
    assert (seen, precision(torch.float32)) == (["tf32"], "ieee")
    assert work.make(case_of()).tf32 is None  # on a CPU nobody touches it


def test_rates_by_matrix_products_are_in_teraflops() -> None:
    problem = work.make(case_of())
    series = device.timing.Series([0.5] * 3, [1e-6] * 3)
    row = runner.figures(Contender("ours", lambda: None), series, series, problem, case_of(limit="matmul"))
    assert row["rate"] == pytest.approx(problem.flops / 0.5 * 1e-12)
    assert row["limit_share"] == pytest.approx(row["rate"] / 1e-6)
    result = {"limit": "matmul", "shapes": {"dtype": "tf32"}, "contenders": [row]}
    found = command.limits_of([result], "cuda")
    assert found == {"matmul tf32": {"median": 1e-6, "q1": 1e-6, "q3": 1e-6, "count": 3}}
    assert table.limits({"limits": found}) == "matrix product tf32 0.000 TFLOP/s (0.000 to 0.000)"


def test_tiny_cuda_nn_gets_our_weights_in_its_order() -> None:
    """Its network, written out from its documentation, on its flat parameters gives our network's values."""
    octaves = 2
    problem = work.make(case_of(shapes={**SHAPES, "octaves": octaves, "modules": 1, "bias": False}))
    flat = tinycudann_peer.packed([w[0] for w in problem.weights], octaves)
    assert flat.numel() == 16 * 16 + 16 * 16  # 12 features and 4 outputs, padded
    x = problem.x
    waves = [
        torch.sin(2.0**k * torch.pi * x[:, d] + wave * torch.pi / 2)
        for d in range(3)
        for k in range(octaves)
        for wave in (0, 1)
    ]
    h = torch.stack(waves + [torch.ones_like(x[:, 0])] * 4, 1)
    first, last = flat.view(2, 16, 16)
    y = (torch.relu(h @ first.t()) @ last.t())[:, :4]
    torch.testing.assert_close(y, problem.truth()["y"].float(), rtol=1e-4, atol=1e-5)
    shapes = [(w.shape[1], w.shape[2]) for w in problem.weights]
    for a, b in zip(tinycudann_peer.unpacked(flat, shapes, octaves), problem.weights):
        assert torch.equal(a, b[0])


def test_a_peer_without_biases_is_compared_by_the_weights_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiny-cuda-nn's contender, with a network of torch's in its place."""

    class Net(torch.nn.Module):
        def __init__(self, inputs: int, outputs: int, encoding: dict[str, Any], network: dict[str, Any]) -> None:
            super().__init__()
            assert encoding == {"otype": "Frequency", "n_frequencies": 2}
            assert (network["n_neurons"], network["n_hidden_layers"]) == (16, 1)
            self.params = torch.nn.Parameter(torch.zeros(512))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert (self.jit_fusion, self.loss_scale) == (True, 1.0)
            w = tinycudann_peer.unpacked(self.params, [(12, 16), (16, 4)], 2)
            offsets = torch.tensor([0, x.shape[0]])
            zeros = [torch.zeros(1, 16), torch.zeros(1, 4)]
            return mf.ops.bank_mlp(x, offsets, [t[None] for t in w], zeros, problem.spec).half()

    fake = type(sys)("tinycudann")
    vars(fake).update(NetworkWithInputEncoding=Net, supports_jit_fusion=lambda: True)
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    for op in ("forward", "forward_backward"):
        problem: Any = work.make(case_of(op=op, shapes={**SHAPES, "bias": False, "dtype": "float16"}))
        verdict = correctness.judge(tinycudann_peer.OPS[op](problem), problem.truth(), {"": 1e-2})
        assert verdict.reason is None
        assert list(verdict.errors) == (["y"] if op == "forward" else ["weights"])
    with pytest.raises(tinycudann_peer.Unsupported, match="no biases"):
        tinycudann_peer.forward(work.make(case_of()))


def test_nerfacc_composites_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contender over nerfacc's two functions, written out from its documentation."""
    from benchmarks.peers import nerfacc_peer

    problem: Any = work.make(case_of(op="composite_backward", shapes={"rays": 7, "bins": 5}))

    def render_weight_from_density(t_starts, t_ends, sigmas, *, ray_indices, n_rays):
        s = sigmas * (t_ends - t_starts)
        before = torch.stack(
            [s[(ray_indices == r)][: int((ray_indices[:k] == r).sum())].sum() for k, r in enumerate(ray_indices)]
        )
        return torch.exp(-before) * (1 - torch.exp(-s)), None, None

    def accumulate_along_rays(weights, values=None, *, ray_indices, n_rays):
        rows = weights[:, None] * (1.0 if values is None else values)
        return torch.zeros(n_rays, rows.shape[1]).index_add(0, ray_indices, rows)

    fake = type(sys)("nerfacc")
    vars(fake).update(
        render_weight_from_density=render_weight_from_density, accumulate_along_rays=accumulate_along_rays
    )
    monkeypatch.setitem(sys.modules, "nerfacc", fake)
    for op in ("composite", "composite_backward"):
        problem = work.make(case_of(op=op, shapes={"rays": 7, "bins": 5}))
        verdict = correctness.judge(nerfacc_peer.OPS[op](problem), problem.truth(), problem.verify())
        assert verdict.reason is None


def test_the_report_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    assert machine.gpu_short_name("NVIDIA H200") == "h200"
    assert machine.gpu_short_name("NVIDIA A100-SXM4-80GB") == "a100-sxm4-80gb"
    properties = type(
        "P", (), {"name": "NVIDIA H200", "major": 9, "minor": 0, "multi_processor_count": 132, "total_memory": 2**37}
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: properties)
    answer = "580.1, 345 MHz, 3201 MHz, 1980 MHz, [N/A], 30\n"
    done = type("D", (), {"returncode": 0, "stdout": answer})
    monkeypatch.setattr(machine.subprocess, "run", lambda *words, **options: done)
    found = machine.gpu()
    assert (found["short"], found["capability"], found["memory_gib"], found["l2_mib"]) == ("h200", "9.0", 128.0, None)
    assert (found["driver_version"], found["clocks_sm"]) == ("580.1", "345 MHz")
    assert "power_limit" not in found
    data = {"suite": "gpu", "machine": {"gpu": found, "cpu": {"short": "zen9"}}, "date": "2030-01-02"}
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    target = command.target(command.parser().parse_args(["--suite", "gpu"]), {**data, "interrupted": False})
    assert target == tmp_path / "bench_gpu_h200_2030-01-02.json"
    shown = table.where({**data, "versions": {"triton": "3.6.0"}})
    assert shown == f"NVIDIA H200 (sm_90, driver 580.1), CUDA {torch.version.cuda}, triton 3.6.0"


def test_peak_memory_on_a_gpu_is_that_of_torchs_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [100]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held[0])
    contender = Contender("a", lambda: held.__setitem__(0, 164))
    assert memory._peak_on_gpu(contender) == {"bytes": 64, "how": "torch.cuda.max_memory_allocated"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")
@pytest.mark.parametrize(
    "case",
    [c for c in GPU.cases if c.id in ("forward/16x64/bf16", "adam/16x64", "composite/forward")],
    ids=lambda c: c.id,
)
def test_a_case_on_the_gpu(case: cases.Case) -> None:
    small = next(c for c in TINY.cases if c.id == case.id)
    result = runner.run_case(dataclasses.replace(case, shapes=small.shapes, memory=("ours",)), 0.0, skip=("compile",))
    assert result["status"] == "ok", result["reason"]
    ours = result["contenders"][0]
    assert ours["seconds"]["median"] > 0
    assert ours["memory"]["how"] == "torch.cuda.max_memory_allocated"
