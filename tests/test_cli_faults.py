"""The command line when the machine fails it: its environment, its disk, its pipes, and other processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
import yaml
from test_cli import SMALL, posed_folder, refusal, write

import mclnf_fast
from mclnf_fast.cli import main
from mclnf_fast.cli.guard import guarded, line_of
from mclnf_fast.fields.io import save_tensors
from mclnf_fast.systems.common.folder import RunFolder

ROOT = str(pathlib.Path(mclnf_fast.__file__).parents[1])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.mark.parametrize(
    ("name", "value", "must"),
    [
        ("MCLNF_FAST_ISA", "sse", "avx512, avx2, neon or portable"),
        ("MCLNF_FAST_BF16_DOT", "7", "0 or 1"),
        ("MCLNF_FAST_POOL_MB", "many", "a whole number of megabytes"),
        ("MCLNF_FAST_POOL_MB", "9" * 30, "a whole number of megabytes"),
        ("MCLNF_FAST_CACHE", "/dev/null", "a folder"),
        ("MCLNF_FAST_CACHE", "/dev/null/below", "a folder"),
        ("MCLNF_FAST_CACHE", "~nobody-of-this-name/x", "a folder"),
        ("MCLNF_FAST_CACHE", "x" * 5000, "a folder"),
    ],
)
def test_wrong_values_of_the_environment(capsys, monkeypatch, name, value, must):
    monkeypatch.setenv(name, value)
    assert f"the environment variable {name} must be {must}" in refusal(capsys, "info")
    assert f"the environment variable {name} must be {must}" in refusal(capsys, "run", "city", "--quick")


def test_what_the_processor_lacks_is_one_line():
    error = RuntimeError("chosen_set, csrc/cpu/bank_mlp.cpp:31, MCLNF_FAST_ISA=avx512, but this processor lacks it")
    assert line_of(error) == "MCLNF_FAST_ISA=avx512, but this processor lacks it"


def test_an_error_of_our_own_is_one_line_and_keeps_its_traceback(capsys, monkeypatch):
    def broken(words: list[str]) -> int:
        raise KeyError("x")

    assert guarded(broken, []) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "internal error, please report it with" in line
    assert line.rstrip().endswith("KeyError: 'x'")
    file = pathlib.Path(line.partition("report it with ")[2].partition(": ")[0])
    assert "in broken" in file.read_text()
    file.unlink()
    monkeypatch.setenv("MCLNF_FAST_TRACEBACK", "1")
    with pytest.raises(KeyError):
        guarded(broken, [])


def test_without_any_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["info"]) == 0
    assert main(["inof"]) == 2


def program(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mclnf_fast.cli", *words]
    env = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env, "check": False}
    return subprocess.run(command, **{**given, **options})


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("mclnf-fast: ")
    return lines[0]


def test_a_closed_pipe_and_a_full_device():
    reader, writer = os.pipe()
    os.close(reader)
    assert "the output was closed before its end" in one_line(program("info", stdout=writer))
    os.close(writer)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            assert "No space left on device" in one_line(program("info", stdout=full))


def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(tmp_path, city_cache):
    """Every file above 20 kB fails, as on a disk that is full."""
    posed_folder(tmp_path / "data")
    words = ["run", "city", "--data", str(tmp_path / "data"), *SMALL, "--out", str(tmp_path / "run")]
    done = program(*words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert "File too large; --resume continues a run when there is room" in one_line(done)
    assert program("run", "city", "--resume", str(tmp_path / "run")).returncode == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.fixture
def city_cache() -> None:
    """Nothing: `--init random` makes no procedural city."""


def test_pipes_and_devices_given_as_files(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--data", "--out", "--config"):
        line = refusal(capsys, "run", "city", flag, tmp_path / "pipe")
        assert "pipe" in line
    assert "pipe" in refusal(capsys, "table", tmp_path / "pipe", "--out", tmp_path / "out")
    assert "pipe" in refusal(capsys, "bench", "--suite", tmp_path / "pipe")
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "config.yaml")
    refusal(capsys, "run", "city", "--resume", tmp_path / "run")
    os.mkfifo(tmp_path / "run" / "metrics.json")
    refusal(capsys, "table", tmp_path / "run", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--threads", "100000"], "threads must be at most 1024, got 100000"),
        (["--width", "1000000000"], "width must be at most 16384"),
        (["--samples-per-ray", "100000000"], "samples-per-ray must be at most 65536"),
        (["--adapt.batch", "2000000000"], "adapt.batch must be at most"),
        (["--meta.batch", "2000000000"], "meta.batch must be at most"),
        (["--steps", "99999999999"], "steps must be at most 2147483647"),
    ],
)
def test_huge_options(capsys, words, part):
    assert part in refusal(capsys, "run", "city", *words)


def test_learning_that_diverges_is_one_line(tmp_path, capsys):
    tiny = ["--quick", "--steps", "2", "--size", "16", "--limit", "4", "--methods", "mim", "--width", "8"]
    words = ["run", "image", *tiny, "--meta.steps", "2", "--meta.inner-lr", "1e30", "--out", tmp_path / "run"]
    line = refusal(capsys, *words)
    assert "the weights are no longer finite after" in line
    assert "choose smaller rates" in line


@pytest.mark.parametrize("place", [1e30, -1e30, 1e200, 1e308])
def test_a_camera_far_away(tmp_path, capsys, place):
    content = posed_folder(tmp_path / "data")
    content["frames"][2]["transform_matrix"][0][3] = place
    write(tmp_path / "data", content)
    refusal(capsys, "run", "city", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_folders_without_permission(tmp_path, capsys):
    posed_folder(tmp_path / "data")
    (tmp_path / "locked").mkdir(mode=0o500)
    (tmp_path / "data" / "images").chmod(0)
    with contextlib.ExitStack() as stack:
        stack.callback((tmp_path / "data" / "images").chmod, 0o700)
        assert "images" in refusal(capsys, "run", "city", "--data", tmp_path / "data", *SMALL)
        line = refusal(capsys, "run", "city", "--out", tmp_path / "locked" / "run", *SMALL)
        assert "must be a folder that can be written" in line


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "data"), OSError(30, "Read-only file system", "run")]
)
def test_errors_of_the_system_name_the_file(capsys, monkeypatch, error):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    assert f"{error.strerror}" in refusal(capsys, "run", "city", "--out", "run", *SMALL)


def test_a_second_process_is_kept_out_of_a_run_folder(tmp_path, capsys):
    """And a process that was killed leaves the folder free."""
    run = tmp_path / "run"
    code = (
        "import pathlib, sys, time; from mclnf_fast.systems.common.folder import RunFolder, plain\n"
        "from mclnf_fast.systems.city.options import CityConfig\n"
        f"RunFolder.create(pathlib.Path({str(run)!r}), 'city', plain(CityConfig()), 'x'); print('locked', flush=True)\n"
        "time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        for words in (["--resume", run], ["--out", run]):
            line = refusal(capsys, "run", "city", *words)
        line = refusal(capsys, "run", "city", "--resume", run)
        assert f"{run} is being written by process {holder.pid} on " in line
        holder.kill()
    RunFolder.reopen(run, "city")[0].release()
    assert not (run / ".lock").exists()


def test_state_of_a_run_that_was_tampered_with(tmp_path, capsys):
    posed_folder(tmp_path / "data")
    words = ["run", "city", "--data", tmp_path / "data", "--out", tmp_path / "run", *SMALL]
    assert main([str(w) for w in words]) == 0
    state = tmp_path / "run" / "state" / "run.safetensors"
    for meta in ({}, {"phases": 3}, {"phases": {"data": "x"}}, {"phases": [1]}):
        save_tensors(state, {}, meta)  # with the right checksum
        assert "must be the state of this configuration" in refusal(capsys, "run", "city", "--resume", tmp_path / "run")
    state.unlink()
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for change, part in (
        ({"methods": ["nobody"]}, "methods must be among"),
        ({"seed": "x"}, "seed must be a whole number"),
    ):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, **change}))
        assert part in refusal(capsys, "run", "city", "--resume", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run" / "command.txt").write_bytes(b"\xff\xfe not UTF-8")
    assert main(["run", "city", "--resume", str(tmp_path / "run")]) == 0
