"""A tiny city, run once in this process, and the way to run it in another one."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from tiny_city import OPTIONS, OTHERS, shrink

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(autouse=True, scope="module")
def _same_threads() -> Iterator[None]:
    """A run with `--threads` sets them for the whole process; the tests of the next file have their own again."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def city_cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@contextlib.contextmanager
def tiny(city_cache: pathlib.Path) -> Iterator[None]:
    """The tiny city in place of the procedural one, and no longer: tests of other files share this process."""
    from mclnf_fast.systems.city import data as city_data
    from mclnf_fast.systems.common import run

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((city_data, "write_city"), (run, "SAVE_EVERY")):
            patch.setattr(module, name, getattr(module, name))  # so that leaving the context puts it back
        patch.setenv("MCLNF_FAST_CACHE", str(city_cache))
        shrink()
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@pytest.fixture
def tiny_data(city_cache: pathlib.Path) -> Iterator[None]:
    """For a test that reads the tiny city itself."""
    with tiny(city_cache):
        yield


@pytest.fixture(scope="session")
def run_tiny(city_cache: pathlib.Path) -> Callable[..., int]:
    """`run_tiny("--out", folder, ...)`: `mclnf-fast run city` on the tiny city, in this process; its exit code."""
    from mclnf_fast.cli import main

    def run_one(*words: object) -> int:
        with tiny(city_cache):
            return main(["run", "city", *map(str, words)])

    return run_one


@pytest.fixture(scope="session")
def finished(run_tiny: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of an uninterrupted run. Tests must not change it."""
    out = tmp_path_factory.mktemp("run") / "whole"
    assert run_tiny("--out", out, *OPTIONS) == 0
    return out


@pytest.fixture(scope="session")
def others(run_tiny: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run of the methods that are not run by default, and `finetune`. Tests must not change it."""
    out = tmp_path_factory.mktemp("run") / "others"
    assert run_tiny("--out", out, *OPTIONS, "--methods", *OTHERS, "finetune") == 0
    return out


@pytest.fixture(scope="session")
def start_tiny(city_cache: pathlib.Path) -> Callable[..., subprocess.Popen[str]]:
    """Like `run_tiny`, in a process of its own; `kill_at`: see `tiny_city`."""

    def start(*words: object, kill_at: int | None = None) -> subprocess.Popen[str]:
        env = {**os.environ, "MCLNF_FAST_CACHE": str(city_cache), "OMP_NUM_THREADS": "1"}
        root = str(HERE.parents[1])
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
        if kill_at is not None:
            env["TINY_KILL_AT"] = str(kill_at)
        command = [sys.executable, str(HERE / "tiny_city.py"), "run", "city", *map(str, words)]
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch) -> Callable[[list[str], list[str]], None]:
    """`refused(words, parts)`: `mclnf-fast run` with these words complains in one line, which holds all parts, and
    leaves no run behind."""
    from mclnf_fast.cli import main

    monkeypatch.chdir(tmp_path)

    def check(words: list[str], parts: list[str]) -> None:
        assert main(["run", *words, "--out", "run"]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("mclnf-fast: ")
        assert "\n" not in error
        assert all(part in error for part in parts), error
        assert not (tmp_path / "run" / "config.yaml").exists()

    return check
