"""`mclnf-fast bench`: correctness before figures, honest about who is missing, results that can be read again."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import pytest
import torch

from mclnf_fast import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks import cases, command, correctness, limit, peers, runner, table, timing, work  # noqa: E402
from benchmarks.contender import Contender  # noqa: E402

TINY = {"modules": 2, "points": 64, "width": 8, "hidden": 1, "octaves": 2}
SUITE = {
    "device": "cpu",
    "seconds": 0.01,
    "shapes": TINY,
    "cases": [
        {
            "id": "tiny/backward",
            "op": "forward_backward",
            "peers": ["loop", "bmm", "func"],
            "bars": [
                {"what": "limit_share", "must": 0.0, "aim": 1e9},
                {"what": "speedup", "must": 1e9},
                {"what": "speedup", "must": 1.0, "against": ["nobody"]},
            ],
        },
        {
            "id": "tiny/modules",
            "op": "forward",
            "limit": None,
            "peers": ["loop"],
            "variants": [{"name": "M=1", "modules": 1}, {"name": "M=4", "modules": 4, "shares": "zipf"}],
            "bars": [{"what": "spread", "must": 1e9}],
        },
        {
            "id": "tiny/fisher",
            "op": "fisher_all",
            "peers": ["formula", "backpack"],
            "bars": [{"what": "time_ratio", "must": 1e9, "against": ["ours, forward + backward"]}],
        },
        {
            "id": "tiny/march",
            "op": "march",
            "limit": "copy",
            "shapes": {"rays": 9, "bins": 5, "resolution": 8},
            "peers": ["reference"],
        },
    ],
}


@pytest.fixture(autouse=True)
def _small_and_at_one_with_the_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(limit, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(timing, "SLOT", 1e-3)
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    peers.missing.cache_clear()


def case_of(k: int = 0, **changed: Any) -> cases.Case:
    return dataclasses.replace(cases.read_suite(SUITE, "tiny").cases[k], **changed)


def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result["contenders"]}


def test_a_suite_from_end_to_end(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, out = tmp_path / "tiny.json", tmp_path / "out.json"
    suite.write_text(json.dumps(SUITE))
    assert cli.main(["bench", "--suite", str(suite), "--out", str(out), "--threads", "1", "--check"]) == 0
    shown, text = capsys.readouterr().out, out.read_text()
    data = json.loads(text)
    for key in ("schema", "suite", "device", "date", "command", "machine", "versions", "commit", "settings", "limits"):
        assert key in data
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    assert {"model", "family", "cores", "instruction_set", "short"} <= set(data["machine"]["cpu"])
    assert data["versions"]["torch"] == torch.__version__
    assert [c["status"] for c in data["cases"]] == ["ok"] * 4
    found = rows(data["cases"][0])
    assert list(found) == ["ours", "loop", "bmm", "func"]
    for row in found.values():
        assert row["errors"]["grads"] < 1e-4
        assert len(row["seconds"]["samples"]) >= timing.LEAST
        assert row["seconds"]["q1"] <= row["seconds"]["median"] <= row["seconds"]["q3"]
        if limit.why_no_fma() is None:
            assert 0 < row["limit_share"] < 10
    assert found["ours"]["times_ours"] == 1.0
    share, speed, nobody = data["cases"][0]["bars"]
    assert (speed["passed"], speed["against"] in ("loop", "bmm", "func")) == (False, True)
    assert nobody["void"] == "nothing to measure against"
    if limit.why_no_fma() is None:
        assert (share["passed"], share["reached"]) == (True, False)
    assert list(rows(data["cases"][1])) == ["M=1", "M=4", "loop, M=1", "loop, M=4"]
    for part in ("tiny/backward", "tiny/modules M=4", "MISS", "where we lose:", "void: nothing to measure against"):
        assert part in shown
    pytest.importorskip("matplotlib")
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_wrong_peer_is_named_and_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import loop

    def slightly_off(problem: Any) -> Contender:
        right = loop.forward_backward(problem)
        return Contender("loop", right.run, lambda found: {"grads": right.outputs(found)["grads"] * 1.02})

    monkeypatch.setitem(loop.OPS, "forward_backward", slightly_off)
    result = runner.run_case(case_of(), 0.01)
    found = rows(result)
    assert result["status"] == "ok"
    assert found["loop"]["status"] == "wrong"
    assert "error 0.02, at most 0.01 is right" in found["loop"]["reason"]
    assert "seconds" not in found["loop"]
    assert "seconds" in found["bmm"]
    assert any("tiny/backward, loop: no figure, grads: error 0.02" in line for line in table.remarks([result]))


@pytest.mark.parametrize("spoil", ["value", "shape", "nan", "raise", "name"])
def test_where_ours_is_wrong_the_case_has_no_figure(monkeypatch: pytest.MonkeyPatch, spoil: str, tmp_path) -> None:
    from benchmarks.work.bank import Bank

    own = Bank.own

    def wrong(self: Bank, name: str, backend: str = "auto") -> Contender:
        right = own(self, name, backend)

        def outputs(found: Any) -> dict[str, torch.Tensor]:
            grads = right.outputs(found)["grads"]
            if spoil == "raise":
                raise RuntimeError("no luck")
            spoilt = {"value": grads + grads.abs().max(), "shape": grads[:1], "nan": grads * torch.nan, "name": grads}
            return {"grades" if spoil == "name" else "grads": spoilt[spoil]}

        return dataclasses.replace(right, outputs=outputs)

    monkeypatch.setattr(Bank, "own", wrong)
    result = runner.run_case(case_of(), 0.01)
    assert result["status"] == "red"
    assert result["reason"].startswith("ours: ")
    assert not any("seconds" in row for row in result["contenders"])
    assert result["bars"] == []
    assert table.rows_of([result])[0][1].startswith("red: ours: ")
    suite = tmp_path / "tiny.json"
    suite.write_text(json.dumps({**SUITE, "cases": SUITE["cases"][:1]}))
    assert cli.main(["bench", "--suite", str(suite)]) == 1


def test_missing_and_failing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import bmm

    def broken(problem: Any) -> Contender:
        raise RuntimeError("it broke")

    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(bmm.OPS, "forward_backward", broken)
    result = runner.run_case(case_of(peers=("opacus", "bmm", "loop", "torchopt")), 0.01, skip=("torchopt",))
    assert result["absent"] == {
        "opacus": "opacus is not installed",
        "bmm": "failed: RuntimeError: it broke",
        "torchopt": "left out of a quick run",
    }
    assert list(rows(result)) == ["ours", "loop"]
    assert "  opacus: opacus is not installed" in table.remarks([result])


SMALL: dict[str, dict[str, Any]] = {
    "forward": {},
    "forward_backward": {},
    "fisher_scores": {"peer_points": 16},
    "fisher_all": {},
    "fisher_rays": {"ray_points": 4, "peer_points": 16},
    "maml": {"steps": 2, "lr": 0.1},
    "meta": {"steps": 2, "lr": 0.1, "octaves": 0, "in_dim": 2, "out_dim": 3, "w0": 30.0},
    "composite": {"rays": 7, "bins": 5},
    "composite_backward": {"rays": 7, "bins": 5},
    "nerf_step": {"rays": 8, "samples": 4},
    "bank_step": {},
    "train_step": {"points": 42},
    "fit_loop": {"samples": 30, "batch": 8, "steps": 2, "octaves": 0, "in_dim": 2, "out_dim": 3, "w0": 30.0},
    "grid": {"kind": "hash", "levels": 2, "features": 2, "log2_size": 8},
    "grid_backward": {"kind": "triplane", "features": 3, "resolution": 9},
}


@pytest.mark.parametrize("op", SMALL)
def test_ours_and_every_peer_at_hand_solve_the_same_problem(op: str) -> None:
    torch.manual_seed(0)
    problem = work.make(case_of(op=op, shapes={**TINY, **SMALL[op]}))
    found = problem.ours()
    for name in peers.FILES:
        if name != "compile" and peers.missing(name) is None and op in peers._file(name).OPS:
            found.append(peers.contender(name, op, problem))
    assert len(found) > 1
    truth, tolerance = problem.truth(), problem.verify()
    verdicts = {c.name: correctness.judge(c, truth, tolerance) for c in found}
    assert {name: v.reason for name, v in verdicts.items() if v.reason} == {}
    for contender in found:
        contender.run()
        assert 0 < contender.share <= 1


@pytest.mark.parametrize("name", ["bmm", "torchopt", "torchopt loop", "func"])
def test_the_outer_step_moves_a_peer_as_it_moves_us(name: str) -> None:
    if (reason := peers.missing(name)) is not None:
        pytest.skip(reason)
    problem = work.make(case_of(op="meta", shapes={**TINY, **SMALL["meta"]}))
    changes = []
    for contender in (problem.ours()[0], peers.contender(name, "meta", problem)):
        first = contender.values()["grads"].clone()
        for _ in range(40):
            last = contender.run()
        changes.append(contender.outputs(last)["grads"] - first)
    ours, theirs = changes
    assert float(ours.norm() / first.norm()) > 0.01
    assert correctness.relative_error(theirs, ours) < 0.01


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "tpu"], "--suite must be one of auto, cpu, gpu or a JSON file of cases, got 'tpu'"),
        (["--only", "nothing"], "--only must match a case of suite cpu (forward/16x64, "),
        (["--out", "there.txt"], "--out must end in .json, got 'there.txt'"),
        (["--threads", "0"], "--threads must be at least 1 and at most 1024, got 0"),
        (["--threads", "100000"], "--threads must be at least 1 and at most 1024, got 100000"),
        (["--quik"], "bench: unknown argument --quik; did you mean --quick?"),
        (["--frobnicate"], "bench: unknown argument --frobnicate (see mclnf-fast bench --help)"),
    ],
)
def test_wrong_options_are_refused_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(["bench", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_the_list_of_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--list", "--only", "maml"]) == 0
    assert capsys.readouterr().out.startswith("maml ")


def test_without_the_folder_the_error_names_the_remedy(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(cli.command, "__file__", str(tmp_path / "site" / "mclnf_fast" / "cli" / "command.py"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 2
    line = "bench needs the folder benchmarks/ of the source checkout: run it in the folder of the checkout"
    assert capsys.readouterr().err == f"mclnf-fast: {line}\n"


def test_a_whole_suite_is_kept_under_a_new_name(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    data = {"suite": "cpu", "machine": {"cpu": {"short": "zen9"}}, "date": "2030-01-02", "interrupted": False}
    whole = command.parser().parse_args([])
    assert command.target(whole, data) == tmp_path / "bench_cpu_zen9_2030-01-02.json"
    (tmp_path / "bench_cpu_zen9_2030-01-02.json").touch()
    assert command.target(whole, data) == tmp_path / "bench_cpu_zen9_2030-01-02_2.json"
    assert command.target(command.parser().parse_args(["--quick"]), data) is None


def test_an_interrupted_run_shows_and_saves_its_results(monkeypatch, tmp_path, capsys) -> None:
    suite, out, done = tmp_path / "tiny.json", tmp_path / "out.json", runner.run_case

    def run_case(case: cases.Case, *rest: Any) -> dict[str, Any]:
        if case.id == "tiny/modules":
            raise KeyboardInterrupt
        return done(case, *rest)

    monkeypatch.setattr(runner, "run_case", run_case)
    suite.write_text(json.dumps(SUITE))
    assert cli.main(["bench", "--suite", str(suite), "--out", str(out)]) == 130
    assert "interrupted after 1 of 4 cases" in capsys.readouterr().out
    data = json.loads(out.read_text())
    assert data["interrupted"]
    assert [case["id"] for case in data["cases"]] == ["tiny/backward"]


def test_json_holds_no_nan() -> None:
    assert command.rounded({"a": [float("nan"), 1.23456789, 3], "b": float("inf")}) == {
        "a": [None, 1.23457, 3],
        "b": None,
    }
