"""A page for bug reports: versions, built libraries, and the backend of each op with the reasons against the others."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import re
import warnings
from typing import Any

import torch

from mclnf_fast import ops

_PACKAGES = (
    "mclnf-fast",
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "tyro",
    "matplotlib",
    "jinja2",
)

TESTED_TORCH = ((2, 11), (2, 14))
"""Releases of torch that the package is tested with: from the first of these on, before the second."""


def warn_if_untested(version: str = torch.__version__) -> None:
    """Warn once if this release of torch is not one that the package is tested with.

    Later ones are not refused: the libraries use torch's stable ABI alone, which is made to last.

    >>> warn_if_untested("2.12.1+cpu")
    """
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    first, end = TESTED_TORCH
    if not first <= release < end:
        names = [".".join(map(str, numbers)) for numbers in TESTED_TORCH]
        warnings.warn(
            f"mclnf_fast is tested with torch from {names[0]} on, before {names[1]}; this is {version}. If something "
            f"fails: pip install 'torch>={names[0]},<{names[1]}'",
            stacklevel=3,
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name and architecture; the architecture alone if the system does not tell the name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name} ({platform.machine()})" if name and name != platform.machine() else platform.machine()


class Info(dict[str, Any]):
    """A plain mapping whose text is a page."""

    def __str__(self) -> str:
        lines = [f"{'machine':<14}{self['machine']}"]
        lines += [f"{name:<14}{version or 'not installed'}" for name, version in self["versions"].items()]
        for library, state in self["built"].items():
            lines.append(f"{library + ' library':<14}{state}")
        lines.append(f"{'bf16 on CPU':<14}dot product of bf16 pairs: {'yes' if self['bf16_dot'] else 'no'}")
        for device, table in self["ops"].items():
            lines.append(f"\non {device}:")
            for op, row in table.items():
                lines.append(f"  {op:<15}{row['backend']}")
                lines += [f"  {'':<15}not {name}: {reason}" for name, reason in row["passed_over"].items()]
        return "\n".join(lines)


def info() -> Info:
    """Return versions, built libraries, and for each op and device the backend that float32 calls take.

    The mapping has the keys `machine`, `versions`, `built`, `bf16_dot` (whether CPU banks in bfloat16 run on the
    processor's dot product of bf16 pairs) and `ops` (device -> op -> `backend` and `passed_over`: name -> reason);
    printing it gives a page for bug reports.

    >>> sorted(info())
    ['bf16_dot', 'built', 'machine', 'ops', 'versions']
    """
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda", torch.cuda.current_device()))
    cpu = ops.why_not_loaded("cpu")
    built = {
        "cpu": cpu or f"loaded, instruction set {torch.ops.mclnf_fast.cpu_instruction_set()}",
        "cuda": ops.why_not_loaded("cuda") or "loaded",
    }
    bf16_dot = cpu is None and torch.ops.mclnf_fast.cpu_bf16_dot()
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for device in devices:
        for op in ops.registered():
            reasons, taken = {}, None
            for name in ops.backends(op):
                reason = ops.passed_over(op, name, device, torch.float32)
                if reason is None:
                    taken = taken or name
                elif taken is None:
                    reasons[name] = reason
            table.setdefault(str(device), {})[op] = {"backend": taken, "passed_over": reasons}
    threads = torch.get_num_threads()
    machine = f"{_processor()}, {threads} thread{'s' * (threads != 1)}, Python {platform.python_version()}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    versions = {p: _version(p) for p in _PACKAGES}
    return Info(machine=machine, versions=versions, built=built, bf16_dot=bf16_dot, ops=table)
