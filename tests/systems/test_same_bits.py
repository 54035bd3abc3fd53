"""The `--quick` run of every system still has the figures and the tensors that it had, to the last bit.

`frozen.json` holds them for some kinds of machine, each with its PyTorch; on another kind, sums are rounded otherwise
and the comparison is skipped. `MCLNF_SAME_BITS=1` runs all systems (some minutes), without it the two that cover most
code run. After a change that is meant to change figures:

    python tests/systems/test_same_bits.py SYSTEM ...    # writes the new ones; say why in the commit

The figures of other kinds of machine are of the code before the change then, and are dropped for these systems. A kind
that is not in the file yet is added with `--add`, from code that is known to be right.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors import safe_open

import mclnf_fast as mf

FILE = pathlib.Path(__file__).parent / "frozen.json"
SYSTEMS = ("city", "image", "audio", "video", "single-view", "photos", "image-start", "ct")
ALWAYS = ("city", "image")
# A clock and an allocator decide these, and where the run was made.
NOT_FROZEN = ("second", "phases", "peak", "memory", "machine", "versions", "config", "pictures", "time")
THREADS = 2


def machine() -> dict[str, Any]:
    """Return what decides how sums are rounded."""
    vendors = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("vendor_id")]
    facts = mf.info()
    return {
        "torch": torch.__version__.split("+")[0],
        "vendor": vendors[0] if vendors else "unknown",  # the matrix library chooses its kernels by it
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "library": facts["built"]["cpu"],
        "bank_mlp": facts["ops"]["cpu"]["bank_mlp"]["backend"],
    }


def _cpuinfo() -> list[str]:
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def figures(value: Any) -> Iterator[float]:
    """Yield every fraction of a metrics.json, but for what a clock decides; whole numbers are too common to prove."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not any(word in key for word in NOT_FROZEN):
                yield from figures(item)
    elif isinstance(value, list):
        for item in value:
            yield from figures(item)
    elif isinstance(value, float) and math.isfinite(value) and value != int(value):
        yield value


def tensors(folder: pathlib.Path) -> dict[str, str]:
    """Return file and tensor name -> digest, of what a run leaves beside its state."""
    digests = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if path.relative_to(folder).parts[0] == "state":
            continue
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                data = file.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
                digests[f"{path.relative_to(folder)}:{name}"] = hashlib.sha256(data).hexdigest()[:16]
    return digests


def results(folder: pathlib.Path) -> dict[str, Any]:
    """Return what is frozen of a run's folder."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"figures": sorted(set(figures(metrics))), "tensors": tensors(folder)}


def run(system: str, folder: pathlib.Path) -> dict[str, Any]:
    """Run a system and return its results."""
    command = [sys.executable, "-m", "mclnf_fast.cli", "run", system, "--quick", "--out", str(folder)]
    root = str(pathlib.Path(mf.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_same_bits(system: str, tmp_path: pathlib.Path) -> None:
    if system not in ALWAYS and not os.environ.get("MCLNF_SAME_BITS"):
        pytest.skip("set MCLNF_SAME_BITS=1 to run every system")
    kinds = json.loads(FILE.read_text())
    before = next((kind["systems"].get(system) for kind in kinds if kind["machine"] == machine()), None)
    if before is None:
        pytest.skip(f"no figures of {system} for this kind of machine, {machine()}")
    now = run(system, tmp_path / system)
    lost = sorted(set(before["figures"]) - set(now["figures"]))
    assert not lost, f"{len(lost)} of {len(before['figures'])} figures changed, such as {lost[:5]}"
    # By content: a file or a tensor may be renamed, its bytes may not change.
    other = {name for name, digest in before["tensors"].items() if digest not in now["tensors"].values()}
    assert not other, f"changed or missing: {sorted(other)[:5]}"


def write(systems: dict[str, dict[str, Any]], add: bool) -> None:
    """Write the results of this kind of machine; drop those of other kinds for the same systems, unless `add`."""
    kinds = json.loads(FILE.read_text()) if FILE.is_file() else []
    mine = next((kind for kind in kinds if kind["machine"] == machine()), None)
    if mine is None:
        mine = {"machine": machine(), "systems": {}}
        kinds.append(mine)
    for kind in kinds:
        if not add:
            kind["systems"] = {name: value for name, value in kind["systems"].items() if name not in systems}
    mine["systems"] |= systems
    FILE.write_text(json.dumps([kind for kind in kinds if kind["systems"]], separators=(",", ":")) + "\n")


if __name__ == "__main__":
    named = [argument.partition("=") for argument in sys.argv[1:] if argument != "--add"]
    with tempfile.TemporaryDirectory() as scratch:  # NAME=FOLDER takes a finished run
        new = {
            name: results(pathlib.Path(known)) if known else run(name, pathlib.Path(scratch) / name)
            for name, _, known in named
        }
    write(new, "--add" in sys.argv)
