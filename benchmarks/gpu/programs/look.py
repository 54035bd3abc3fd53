"""The GPU and the versions of this machine, as JSON on the last line: `python -m benchmarks.gpu.programs.look`."""

from __future__ import annotations

import importlib.util
import json
import platform
from typing import Any

NEEDED_BY_TESTS = ("pytest", "hypothesis")


def found() -> dict[str, Any]:
    """Versions, the GPU or why there is none that serves, why a compiled library is not loaded, packages missing."""
    import torch

    from benchmarks import device, machine
    from mclnf_fast.ops import _library

    unfit = device.unfit("cuda")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": machine.versions(("triton",))["triton"],
        "unfit": unfit,
        "gpu": None if unfit else machine.gpu(),
        "libraries": {name: _library.why_not(name) for name in ("cpu", "cuda")},
        "missing": [name for name in NEEDED_BY_TESTS if importlib.util.find_spec(name) is None],
        "commit": machine.commit(),
    }


if __name__ == "__main__":
    print(json.dumps(found()))
