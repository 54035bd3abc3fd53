"""How many threads a command uses, and that they do not hold the cores while they wait."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from mclnf_fast import cpus

OURS = [sys.executable, "-m", "mclnf_fast.cli", "info"]


def cgroups(root: pathlib.Path, listed: str, files: dict[str, str]) -> float | None:
    """Return the limit that a made-up machine grants."""
    (root / "own").write_text(listed)
    for name, text in files.items():
        path = root / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpus.cgroup_limit(root / "own", root / "mounted")


@pytest.mark.parametrize(
    ("listed", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # a container's own
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0),  # the one that it is in
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "300000 100000"}, 0.5),  # the least of them
        ("0::/host/path\n", {"cpu.max": "200000 100000"}, 2.0),  # the path is the host's
        ("0::/../../x\n", {"cpu.max": "200000 100000"}, 2.0),
        ("3:cpu,x:/a\n", {"cpu,x/a/cpu.cfs_quota_us": "250000", "cpu,x/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("3:cpu,cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None),
        ("4:memory:/a\n0::/\n", {"cpu.max": "damaged"}, None),
        ("", {}, None),
        ("nonsense\n", {"cpu.max": "a b"}, None),
    ],
)  # fmt: skip
def test_the_limit_of_a_cgroup(tmp_path: pathlib.Path, listed: str, files: dict[str, str], limit: float | None) -> None:
    assert cgroups(tmp_path, listed, files) == limit


def test_without_cgroups_there_is_no_limit(tmp_path: pathlib.Path) -> None:
    assert cpus.cgroup_limit(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "limit", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.2, 1), (2, 6.0, 2), (1, None, 1)]
)
def test_usable_cpus_are_the_least_of_affinity_and_limit(
    monkeypatch: pytest.MonkeyPatch, affinity: int, limit: float | None, usable: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_limit", lambda: limit)
    assert cpus.usable_cpus() == usable


@pytest.mark.parametrize(
    ("asked", "variable", "limit", "threads"),
    [
        (None, None, 3.0, 3),
        (None, None, None, 8),  # torch's own
        (None, None, 20.0, 8),  # never more than torch's own
        (None, "8", 3.0, 8),  # the user has asked for it
        (5, None, 3.0, 5),
    ],
)
def test_a_command_uses_no_more_threads_than_cpus(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, variable: str | None, limit: float | None, threads: int
) -> None:
    import torch

    used = [8]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_limit", lambda: limit)
    cpus.use_threads(asked)
    assert used[-1] == threads


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["python3", "/usr/local/bin/mclnf-fast", "run", "city"], True),
        (["python3", "-X", "dev", "-m", "mclnf_fast.cli"], True),
        (["python3", "train.py", "-m", "mclnf_fast.cli"], False),
        (["python3", "-m", "pytest", "mclnf-fast"], False),
        (["python3", "-c", "import mclnf_fast"], False),
        (["python3"], False),
        ([], False),
    ],
)
def test_a_command_is_told_from_the_programs_of_others(words: list[str], ours: bool) -> None:
    assert cpus.is_command(words) == ours


@pytest.mark.parametrize(
    ("load", "usable", "busy"),
    [
        ("0.00 0.10 0.20 1/90 7\n", 4, False),
        ("0.90 0.40 0.20 2/90 7\n", 4, True),  # one process beside us, and we may use all four
        ("0.90 0.40 0.20 1/90 7\n", 4, False),  # it has just ended
        ("0.20 0.40 0.20 5/90 7\n", 4, False),  # of a moment
        ("1.90 1.40 0.20 3/90 7\n", 2, False),  # two of four CPUs are left
        ("2.90 1.40 0.20 4/90 7\n", 2, True),
        ("", 4, False),
        ("damaged by hand 1 2", 4, False),
    ],
)
def test_others_are_busy_if_they_leave_too_few_cpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, load: str, usable: int, busy: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: usable)
    (tmp_path / "loadavg").write_text(load)
    assert cpus.others_are_busy(tmp_path / "loadavg") == busy
    assert not cpus.others_are_busy(tmp_path / "none")


@pytest.mark.parametrize("chosen", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_users_own_choice_stays(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]) -> None:
    monkeypatch.setattr(sys, "orig_argv", OURS)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(cpus, "others_are_busy", lambda: False)
    environment = dict(chosen)
    cpus.wait_briefly(environment)
    assert environment == (chosen or {"GOMP_SPINCOUNT": cpus.SPINS_ALONE})
    monkeypatch.setattr(cpus, "others_are_busy", lambda: True)
    cpus.wait_briefly(beside := dict(chosen))
    assert beside == (chosen or {"GOMP_SPINCOUNT": cpus.SPINS_BESIDE_OTHERS})


def test_a_command_waits_briefly_and_a_program_that_imports_us_is_left_alone() -> None:
    """In processes of their own, since the threads' library reads the environment once."""
    clean = {name: value for name, value in os.environ.items() if name not in cpus.CHOICES}
    asked = "import os, mclnf_fast; print(os.environ.get('GOMP_SPINCOUNT'))"
    alone = subprocess.run([sys.executable, "-c", asked], env=clean, capture_output=True, text=True, check=True)
    assert alone.stdout.strip() == "None"
    # GNU's library prints what it has read, when it starts.
    shown = subprocess.run(
        OURS, env={**clean, "OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" not in shown.stderr:
        pytest.skip("torch's threads are of another library than GNU's")
    spins = (cpus.SPINS_ALONE, cpus.SPINS_BESIDE_OTHERS)
    assert any(f"GOMP_SPINCOUNT = '{n}'" in shown.stderr for n in spins)


STEPS = """
import sys, time, torch
import mclnf_fast as mf
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
bank = mf.FieldBank(mf.FieldSpec(2, 3, 64, 3, "sine"), 12)
x, offsets, target = torch.rand(12 * 256, 2), torch.arange(13) * 256, torch.rand(12 * 256, 3)
optimizer = torch.optim.Adam(bank.parameters(), 1e-4)
def step():
    optimizer.zero_grad()
    mf.ops.bank_mse(x, offsets, list(bank.weight), list(bank.bias), target, bank.spec).sum().backward()
    optimizer.step()
for _ in range(5):
    step()
start, count = time.perf_counter(), 0
while time.perf_counter() - start < 3:
    step()
    count += 1
print((time.perf_counter() - start) / count)
"""


@pytest.mark.skipif(not os.environ.get("MCLNF_LOAD_TESTS"), reason="set MCLNF_LOAD_TESTS=1: it keeps all cores busy")
@pytest.mark.parametrize("each", [1, 4])
def test_two_threads_beside_busy_processes_do_not_collapse(need, each: int) -> None:
    """Two threads against one within one run: with the library's own default above ten, since a thread that waits holds
    its core; here 0.5 beside one busy process per core and 1.7 beside four, where every loop ends with its last thread.
    """
    need("bank_mse", "cpu")
    if cpus.usable_cpus() < 2:
        pytest.skip("one core alone")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(each * cpus.usable_cpus())]
    try:
        environment = {**os.environ, "GOMP_SPINCOUNT": cpus.SPINS_BESIDE_OTHERS}
        one, two = (
            float(subprocess.check_output([sys.executable, "-c", STEPS, threads], env=environment, text=True))
            for threads in ("1", "2")
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert two < 3 * one
