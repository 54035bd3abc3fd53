"""A learned start as a run leaves it in its folder, for users to load."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import load_tensors, save_tensors
from mclnf_fast.learn.params import Params
from mclnf_fast.spec import FieldSpec, from_dict, to_dict

FILE = "start.safetensors"


def write_start(
    folder: pathlib.Path,
    system: str,
    params: Params,
    spec: FieldSpec,
    options: Mapping[str, Any],
    beside: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes `start.safetensors`: parameters [1, ...], their spec, plain options, and tensors that are not learned."""
    tensors = {str(i): p for i, p in enumerate(params)} | dict(beside or {})
    save_tensors(folder / FILE, tensors, {"system": system, "spec": to_dict(spec), "options": dict(options)})


def read_start_file(run: str | pathlib.Path, *systems: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain data of the start in a run's folder.

    Raises InputError where there is none, it is of none of these systems, or its bytes have changed.
    """
    file, said = pathlib.Path(run) / FILE, " or ".join(systems)
    if not file.is_file():
        raise InputError(f"run must be the folder of a run of {said} with {FILE} in it, got {run}")
    tensors, meta = load_tensors(file)
    own = meta.get("system", "single-view")  # which does not say
    if own not in systems:
        raise InputError(f"run must be the folder of a run of {said}, got one of {own}")
    return tensors, meta


def read_start(
    run: str | pathlib.Path, system: str, device: torch.device | str = "cpu"
) -> tuple[Params, FieldSpec, dict[str, Any], dict[str, Tensor]]:
    """What `write_start` wrote, on a device. Raises as `read_start_file`."""
    found, meta = read_start_file(run, system)
    tensors = {name: t.to(device) for name, t in found.items()}
    params = tuple(tensors.pop(str(i)) for i in range(sum(name.isdigit() for name in tensors)))
    return params, from_dict(meta["spec"]), meta["options"], tensors
