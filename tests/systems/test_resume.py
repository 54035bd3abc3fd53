"""`kill -9` at any moment, then `--resume`: the same results as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time

import pytest
from tiny_city import OPTIONS, results

from mclnf_fast.fields.io import load_tensors


def killed(process) -> None:
    """Waits for a process that must die by SIGKILL."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors


def wait_for(process, file) -> None:
    """Until the file is there, or the process has ended."""
    while not file.exists() and process.poll() is None:
        time.sleep(0.005)


def same_as(run, finished) -> None:
    assert results(run) == results(finished)
    assert (run / "bank.safetensors").read_bytes() == (finished / "bank.safetensors").read_bytes()
    assert (run / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert not list(run.rglob("*.tmp"))


def test_killed_in_the_middle_of_its_writes_again_and_again(finished, start_tiny, tmp_path):
    """The moments: while meta-learning, in block 1, at a turn between methods, in block 2, at the very end."""
    run = tmp_path / "run"
    killed(start_tiny("--out", run, *OPTIONS, kill_at=5))
    assert (run / "state" / "start.safetensors").exists()
    for kill_at in (17, 40, 35):
        killed(start_tiny("--resume", run, kill_at=kill_at))
        assert list(run.rglob(".*.tmp")), "it died before a write was in place"
    assert not (run / "metrics.json").exists()
    process = start_tiny("--resume", run)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "report:" in output
    same_as(run, finished)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_from_outside_at_a_random_moment(finished, start_tiny, run_tiny, tmp_path, seed):
    run = tmp_path / "run"
    # The first moment lies in the learning; the second anywhere from the reading of the data to the pictures.
    wanted = {1: "mod_random", 2: "finetune"}[seed]
    process = start_tiny("--out", run, *OPTIONS)
    wait_for(process, run / "state" / f"{wanted}.safetensors")
    time.sleep(random.Random(seed).uniform(0.0, 0.6))
    process.send_signal(signal.SIGKILL)
    killed(process)
    for file in (run / "state").glob("*.safetensors"):
        load_tensors(file)  # whatever the moment, what is in place is whole
    assert run_tiny("--resume", run) == 0
    same_as(run, finished)


def test_killed_while_it_draws_the_pictures(finished, start_tiny, run_tiny, tmp_path):
    run = tmp_path / "run"
    process = start_tiny("--out", run, *OPTIONS)
    wait_for(process, run / "images" / "refinement.png")
    process.send_signal(signal.SIGKILL)
    killed(process)
    assert not (run / "report.html").exists()
    assert run_tiny("--resume", run) == 0
    same_as(run, finished)
