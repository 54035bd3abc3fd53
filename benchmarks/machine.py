"""The machine of a result: processor, instruction set, GPU, versions, commit. No paths, no host names."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

import torch

from benchmarks import limit

ROOT = pathlib.Path(__file__).resolve().parents[1]
GPU_PACKAGES = ("triton", "tinycudann", "nerfacc")
ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu")
PACKAGES = ("mclnf-fast", "torch", "numpy", "jax", "jaxlib", "backpack-for-pytorch", "opacus", "torchopt")

# (vendor, family, lowest model, highest model) -> name
FAMILIES = (
    ("AuthenticAMD", 23, 0x00, 0x2F, "zen"),
    ("AuthenticAMD", 23, 0x30, 0xFF, "zen2"),
    ("AuthenticAMD", 25, 0x00, 0x0F, "zen3"),
    ("AuthenticAMD", 25, 0x10, 0x1F, "zen4"),
    ("AuthenticAMD", 25, 0x20, 0x5F, "zen3"),
    ("AuthenticAMD", 25, 0x60, 0xAF, "zen4"),
    ("AuthenticAMD", 26, 0x00, 0xFF, "zen5"),
    ("GenuineIntel", 6, 85, 85, "skylake"),
    ("GenuineIntel", 6, 106, 108, "icelake"),
    ("GenuineIntel", 6, 143, 143, "sapphirerapids"),
    ("GenuineIntel", 6, 173, 174, "graniterapids"),
    ("GenuineIntel", 6, 207, 207, "emeraldrapids"),
)


def cpu() -> dict[str, Any]:
    """model, vendor, family number, model number, short name, cores at hand, instruction set of our kernels."""
    found: dict[str, str] = {}
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
    vendor, family, model = found.get("vendor_id", ""), _int(found.get("cpu family")), _int(found.get("model"))
    return {
        "model": found.get("model name", platform.processor() or platform.machine()),
        "vendor": vendor,
        "family": family,
        "model_number": model,
        "short": short_name(vendor, family, model),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction_set": torch.ops.mclnf_fast.cpu_instruction_set() if limit.why_no_fma() is None else None,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_dot": limit.fma_bf16() > 0,
    }


def short_name(vendor: str, family: int | None, model: int | None) -> str:
    """Return a word for file names: `zen3`, or the vendor and numbers of one unknown here, or the architecture."""
    if family is None or model is None:
        return platform.machine().lower() or "unknown"
    for who, number, low, high, name in FAMILIES:
        if (who, number) == (vendor, family) and low <= model <= high:
            return name
    return f"{vendor.lower() or 'cpu'}-{family}-{model}"


def gpu() -> dict[str, Any]:
    """name, short name, capability, multiprocessors, memory, second-level cache, CUDA of torch, and what `nvidia-smi`
    says of driver and clocks (at rest or not: as they are found), if it is there."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    cache = getattr(properties, "L2_cache_size", None)
    return {
        "name": properties.name,
        "short": gpu_short_name(properties.name),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": None if cache is None else round(cache / 2**20, 1),
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        **smi(str(getattr(properties, "uuid", ""))),
    }


def gpu_short_name(name: str) -> str:
    """Return a word for file names: `h200` of `NVIDIA H200`."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return "-".join(word for word in words if word not in ("nvidia", "geforce", "tesla")) or "gpu"


def smi(uuid: str) -> dict[str, str]:
    """What `nvidia-smi` answers to `ASKED`; empty without it, and an answer that it has not is left out."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    if uuid:
        command += ["-i", uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    answers = [answer.strip() for answer in lines[0].split(",")] if lines else []
    if len(answers) != len(ASKED):
        return {}
    return {key.replace(".", "_"): answer for key, answer in zip(ASKED, answers) if not answer.startswith("[")}


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def memory_gib() -> float | None:
    """Main memory."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Python's and the packages'; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    if "mclnf-fast" in found and found["mclnf-fast"] is None:  # run from the sources
        import mclnf_fast

        found["mclnf-fast"] = mclnf_fast.__version__
    return found


def commit() -> dict[str, Any]:
    """`hash` and whether the tree is `dirty`, both None without git; a copy without it has the hash that `MCLNF_COMMIT`
    names."""

    def git(*words: str) -> str | None:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain") if head else None
    return {"hash": head or os.environ.get("MCLNF_COMMIT") or None, "dirty": None if changed is None else bool(changed)}


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return all of it, for the JSON; of a GPU where the cases run on one."""
    return {
        "machine": {
            "cpu": cpu(),
            **({"gpu": gpu()} if device == "cuda" else {}),
            "memory_gib": memory_gib(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": versions(PACKAGES if device == "cpu" else (*PACKAGES, *GPU_PACKAGES)),
        "commit": commit(),
        "python": sys.implementation.name,
    }
