"""`kill -9` in the middle of a write, of every system, then `--resume`: the same figures and tensors as if unbroken."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest
import test_ct_run
import test_image_start_run
import test_photos_run
import test_signals_run
import test_single_view_run
import torch
from test_same_bits import results

from mclnf_fast.cli import main
from mclnf_fast.systems import SYSTEMS

HERE = pathlib.Path(__file__).resolve().parent
TINY = {
    **{kind: [*own, *test_signals_run.TINY] for kind, own in test_signals_run.KINDS.items()},
    "single-view": test_single_view_run.TINY,
    "photos": test_photos_run.TINY,
    "image-start": test_image_start_run.TINY,
    "ct": test_ct_run.TINY,
}
# A state after each step, and death by SIGKILL in the middle of a write, as `tiny_city` has them.
DYING = """
import sys
import tiny_city
from mclnf_fast.cli import main
from mclnf_fast.systems.common import run
run.SAVE_EVERY = 0.0
tiny_city.die_at(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def test_every_system_is_killed_here_or_in_its_own_tests() -> None:
    assert {*TINY, "city"} == set(SYSTEMS)


@pytest.mark.slow
@pytest.mark.parametrize("system", TINY)
def test_a_killed_run_is_resumed_to_the_same_bits(system: str, tmp_path: pathlib.Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    threads = torch.get_num_threads()
    try:
        assert main(["run", system, *TINY[system], "--out", str(whole)]) == 0
        kill_at = random.Random(f"{os.getpid()} {system}").randrange(4, 14)  # the first three are of the folder itself
        words = [sys.executable, "-c", DYING, str(kill_at), "run", system, *TINY[system], "--out", str(broken)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE.parents[1]), str(HERE)))}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, f"write {kill_at}: {done.stderr[-1000:]}"
        assert main(["run", system, "--resume", str(broken)]) == 0, f"killed in write {kill_at}"
    finally:
        torch.set_num_threads(threads)
    assert results(broken) == results(whole), f"killed in write {kill_at}"
    assert not list(broken.rglob("*.tmp"))
