"""What a newcomer meets before any code runs: the README's commands, the build lists, what an import needs."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from typing import Any

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.errors import EXTRAS
from mclnf_fast.info import TESTED_TORCH, warn_if_untested
from mclnf_fast.ops import _library

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPTIONAL = ("tyro", "tqdm", "yaml", "PIL", "matplotlib", "jinja2", "safetensors")
TOP_LEVEL = {
    ".ci", ".clang-format", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff",
    "CONTRIBUTING.md", "LICENSE", "README.md", "benchmarks", "csrc", "docs", "examples", "mclnf_fast", "pyproject.toml",
    "setup.py", "tests",
}  # fmt: skip


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def sh_blocks(text: str) -> list[list[str]]:
    return [body.strip().splitlines() for body in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python on our sources, away from the repository."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)


def test_every_place_names_the_same_range_of_torch(project: dict[str, Any], readme: str) -> None:
    """The package has no upper bound; a build and the README's environment do, so that they meet a tested torch."""
    first, end = (".".join(map(str, numbers)) for numbers in TESTED_TORCH)
    tested = f"torch>={first},<{end}"
    assert [r for r in project["build-system"]["requires"] if r.startswith("torch")] == [tested]
    assert [r for r in project["project"]["dependencies"] if r.startswith("torch")] == [f"torch>={first}"]
    cuda = tomllib.loads((ROOT / "csrc" / "cuda" / "wheel" / "pyproject.toml").read_text())
    assert set(project["build-system"]["requires"]) < set(cuda["build-system"]["requires"])
    assert f".venv/bin/pip install '{tested}' " in sh_blocks(readme)[0][0]
    for file in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "quickstart.md", ROOT / ".github" / "workflows" / "ci.yml"):
        assert set(re.findall(r"torch>=[\d.]+,<[\d.]+", file.read_text())) == {tested}, file


@pytest.mark.parametrize(("version", "warned"), [("2.10.1", 1), ("2.11.0", 0), ("2.13.0+cpu", 0), ("2.14.0a0+git", 1)])
def test_a_torch_that_is_not_tested_gives_one_warning(version: str, warned: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_untested(version)
    assert len(caught) == warned
    assert all(
        f"this is {version}" in str(w.message) and "pip install 'torch>=2.11,<2.14'" in str(w.message) for w in caught
    )


def test_the_remedies_install_what_the_extras_do(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        assert [re.match(r"[\w-]+", requirement)[0] for requirement in extras[extra]] == packages.split()


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["run", "--help"]])
def test_the_command_line_answers_these_without_torch(words: list[str]) -> None:
    done = run(
        f"import sys; sys.argv = ['/bin/mclnf-fast', *{words!r}]; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from mclnf_fast.cli import main; code = main(); assert code == (2 if sys.argv[1:] == [] else 0), code"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mclnf-fast 0.1.0" if words == ["--version"] else "usage: mclnf-fast ")


NVCC = """#!/bin/sh
case " $* " in *" --list-gpu-arch "*) echo compute_90; exit;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && : >"$2"; shift; done
"""
"""Writes an empty file where the compiler would write its result."""


@pytest.mark.skipif(sys.platform != "linux", reason="the compiler that stands in is a shell script")
def test_the_cuda_library_is_a_wheel_of_its_own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built by the rules of setup.py, is for every Python, wants this very version, and is found."""
    pytest.importorskip("setuptools.command.bdist_wheel", reason="the build's version of setuptools is not installed")
    (tmp_path / "nvcc").write_text(NVCC)
    (tmp_path / "nvcc").chmod(0o755)
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    here = tmp_path / "csrc" / "cuda" / "wheel"
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path / "dist")]
    environment = {k: v for k, v in os.environ.items() if k not in ("MCLNF_NO_CUDA", "MCLNF_CUDA")}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "dist").iterdir()
    assert wheel.name.startswith(f"mclnf_fast_cuda-{mf.__version__}-py3-none-linux_")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    metadata = (tmp_path / "site" / f"mclnf_fast_cuda-{mf.__version__}.dist-info" / "METADATA").read_text()
    assert f"Requires-Dist: mclnf-fast=={mf.__version__}\n" in metadata

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(_library, "_FOLDER", tmp_path)  # no library beside the package
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _library.why_not("cpu")
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    why_not = _library.why_not.__wrapped__
    assert why_not("cuda") is None
    assert loaded == [str(tmp_path / "site" / "mclnf_fast_cuda" / "_C_cuda.so")]
    monkeypatch.setattr(sys.modules["mclnf_fast_cuda"], "__version__", "0.0.9")
    assert why_not("cuda") == f"mclnf-fast-cuda 0.0.9 is of another version than mclnf-fast {mf.__version__}"


def test_the_library_needs_no_newer_c_library_than_its_wheels_may_meet() -> None:
    library, objdump = ROOT / "mclnf_fast" / "_C_cpu.so", shutil.which("objdump")
    if objdump is None or not library.exists() or sys.platform != "linux":
        pytest.skip("no objdump, or no library for Linux")
    done = subprocess.run([objdump, "-T", str(library)], capture_output=True, text=True, check=True)
    needed = {(int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", done.stdout)}
    assert needed
    assert max(needed) <= (2, 28)


def test_every_dependency_names_its_oldest_release(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    required = project["project"]["dependencies"] + extras["report"] + extras["media"] + extras["meshes"]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", requirement) for requirement in required), required
    # `.ci/run` runs a city and images on just these.
    assert 'step "oldest dependencies" oldest' in (ROOT / ".ci" / "run").read_text()


def test_the_oldest_torch_is_the_target_of_the_build(project: dict[str, Any]) -> None:
    major, minor = re.search(r"torch>=(\d+)\.(\d+)", project["build-system"]["requires"][1]).groups()
    target = re.search(r"TORCH_TARGET_VERSION=0x(\w{2})(\w{2})", (ROOT / "setup.py").read_text())
    assert (int(target[1], 16), int(target[2], 16)) == (int(major), int(minor))


@pytest.mark.parametrize(("name", "system"), [("win32", "Windows"), ("darwin", "macOS")])
def test_a_build_says_that_its_rules_are_untested_there(name: str, system: str) -> None:
    """And without a compiler it leaves the PyTorch reference, as on Linux."""
    code = (
        "import sys, shutil, os, runpy; setup = runpy.run_path('setup.py'); sys.argv = ['setup.py', 'build_ext']\n"
        f"sys.platform = {name!r}; shutil.which = lambda name: None; print(setup['extensions']())\n"
        "print(os.environ.get('ARCHFLAGS', ''))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("MCLNF_NO_EXT", "CXX", "ARCHFLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if "No module named 'setuptools" in done.stderr or "cannot import name" in done.stderr:
        pytest.skip("setuptools of the build's version is not installed here")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"mclnf_fast: the build rules for {system} have not been tested")
    assert f"no C++ compiler ({'clang-cl' if name == 'win32' else 'c++'}) found" in lines[1]
    assert lines[2] == "([], {})"
    assert lines[3].startswith("-arch " if name == "darwin" else "")


@pytest.mark.parametrize(
    ("sources", "torch_has", "nvcc", "asked", "printed"),
    [
        ("checkout", "13.0", "/bin/nvcc", {}, None),
        ("archive", "13.0", "/bin/nvcc", {"MCLNF_CUDA": "1"}, None),
        ("archive", "13.0", "/bin/nvcc", {}, "a source archive builds it if MCLNF_CUDA=1 asks for it"),
        ("checkout", None, "/bin/nvcc", {"MCLNF_CUDA": "1"}, None),
        (
            "checkout",
            None,
            "/bin/nvcc",
            {},
            "torch was built without CUDA (MCLNF_CUDA=1 builds the library all the same)",
        ),
        ("checkout", "13.0", None, {}, "nvcc was not found"),
        ("checkout", None, None, {"MCLNF_CUDA": "1"}, "nvcc was not found"),
        ("checkout", "13.0", "/bin/nvcc", {"MCLNF_NO_CUDA": "1", "MCLNF_CUDA": "1"}, "MCLNF_NO_CUDA is set"),
    ],
)
def test_the_cuda_library_is_built_for_a_torch_that_can_load_it(
    sources: str,
    torch_has: str | None,
    nvcc: str | None,
    asked: dict[str, str],
    printed: str | None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Or if it is asked for: nvcc takes minutes, for nothing beside a torch without CUDA."""
    pytest.importorskip("setuptools.command.bdist_wheel", reason="the build's version of setuptools is not installed")
    monkeypatch.chdir(ROOT)
    (tmp_path / "PKG-INFO").touch()
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "csrc" / "cuda" / "march.cu").touch()
    for name in ("MCLNF_CUDA", "MCLNF_NO_CUDA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    cuda_extension = runpy.run_path("setup.py")["cuda_extension"]
    monkeypatch.setitem(cuda_extension.__globals__, "find_nvcc", lambda: nvcc)
    monkeypatch.chdir(tmp_path if sources == "archive" else ROOT)
    extensions = cuda_extension(torch_has)
    assert [e.mclnf_nvcc for e in extensions] == ([nvcc] if printed is None else [])
    assert capsys.readouterr().out == ("" if printed is None else f"mclnf_fast: CUDA library not built: {printed}\n")


def test_versions_agree(project: dict[str, Any], readme: str) -> None:
    version = project["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "mclnf_fast" / "__init__.py").read_text()
    assert f"version {version}" in readme
    assert f'__version__ = "{version}"' in (ROOT / "csrc/cuda/wheel/mclnf_fast_cuda/__init__.py").read_text()


def test_the_first_two_sh_blocks_are_the_run_and_the_tests(readme: str) -> None:
    first, second, *_ = sh_blocks(readme)
    assert len(first) == len(second) == 1
    for part in ("python3 -m venv .venv", " '.[report]' ", ".venv/bin/mclnf-fast run city"):
        assert part in first[0]
    for part in (".venv/bin/pip install", "'.[test]'", "-m pytest"):
        assert part in second[0]


def test_the_first_example_of_the_readme_shows_its_purpose(readme: str) -> None:
    code = re.search(r"^```python\n(.*?)^```$", readme, re.M | re.S)[1]
    done = run(code)
    assert done.returncode == 0, done.stderr
    learned = re.fullmatch(r"module 1: (\S+) dB\nmodule 2: (\S+) dB\nmodule 1 is bit-equal: True\n", done.stdout)
    assert learned, done.stdout
    assert min(float(learned[1]), float(learned[2])) > 15


def test_every_variable_that_the_code_reads_is_documented() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = [ROOT / "setup.py", *(ROOT / "mclnf_fast").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]pp")]
    read = {name for file in files for name in re.findall(r"\"(MCLNF_[A-Z_]+)\"", file.read_text())}
    assert read, "no variable found: the pattern no longer fits"
    assert {name for name in read if f"`{name}" not in text} == set()


def test_every_source_is_in_the_build(tmp_path: pathlib.Path) -> None:
    """Asked for metadata alone, setup.py lists what it would compile, without importing torch."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc"):
        where = ROOT / name
        (shutil.copytree if where.is_dir() else shutil.copy)(where, tmp_path / name)
    code = (
        "import sys; sys.argv = ['setup.py', '-q', 'egg_info']; import runpy, setuptools.dist\n"
        "found = []; init = setuptools.dist.Distribution.__init__\n"
        "def keep(self, *a, **k): init(self, *a, **k); found.extend(self.ext_modules or [])\n"
        "setuptools.dist.Distribution.__init__ = keep\n"
        "runpy.run_path('setup.py', run_name='__main__'); assert 'torch' not in sys.modules\n"
        "print(*[s for e in found for s in e.sources], *[s for e in found for s in e.depends], sep='\\n')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "MCLNF_NO_EXT"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    if "No module named 'setuptools" in done.stderr or "cannot import name" in done.stderr:
        pytest.skip("setuptools of the build's version is not installed here")
    assert done.returncode == 0, done.stderr
    listed = set(done.stdout.split())
    there = {str(f.relative_to(ROOT)) for f in (ROOT / "csrc").rglob("*") if f.suffix in (".cpp", ".cu", ".h")}
    assert there - listed == set()


def test_every_data_file_is_in_the_wheel(project: dict[str, Any]) -> None:
    package = ROOT / "mclnf_fast"
    patterns = project["tool"]["setuptools"]["package-data"]["mclnf_fast"]
    listed = {file for pattern in patterns for file in package.glob(pattern)}
    there = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    built = {".py", ".so", ".pyc"}
    assert {str(file.relative_to(package)) for file in there - listed if file.suffix not in built} == set()
    assert package / "pretrained" / "faces.safetensors" in listed


def test_the_import_needs_torch_and_numpy_only() -> None:
    done = run(f"""
import sys

from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
import mclnf_fast as mf
bank = mf.FieldBank(mf.FieldSpec(2, 3, 8, 1), modules=2)
assert not {{name.split(".")[0] for name in sys.modules}} & set({OPTIONAL!r})
assert bank(torch.rand(2, 5, 2)).shape == (2, 5, 3)
print(mf.info())
""")
    assert done.returncode == 0, done.stderr
    assert "bank_mlp" in done.stdout


def test_the_import_brings_none_of_the_optional_packages_by_itself() -> None:
    """What torch imports of its own accord is torch's."""
    code = "import sys, torch; before = set(sys.modules); import mclnf_fast; print(*(set(sys.modules) - before))"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert {name.split(".")[0] for name in done.stdout.split()} & set(OPTIONAL) == set()


def test_the_top_level_has_no_other_files() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is tracked is not known")
    done = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split("/")[0] for line in done.stdout.splitlines()} <= TOP_LEVEL


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert not re.search(r"^[^#\n]*MCLNF_NO_(CUDA|EXT)", text, re.M)
