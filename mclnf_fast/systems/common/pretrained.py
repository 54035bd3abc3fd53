"""The initializations that come with the package, and what `--init-from` takes: one of them, or a former run's."""

from __future__ import annotations

import pathlib

import torch

from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.result import Result, read_bank, read_result

FOLDER = pathlib.Path(__file__).parents[2] / "pretrained"


def pretrained_names() -> tuple[str, ...]:
    """Return the names of the initializations that come with the package.

    >>> "faces" in pretrained_names()
    True
    """
    return tuple(sorted(file.stem for file in FOLDER.glob("*.safetensors")))


def pretrained_result(name: str, device: torch.device | str = "cpu") -> Result:
    """Return the result around an initialization that comes with the package: a bank without modules.

    Raises InputError if there is none of this name.

    >>> pretrained_result("faces").system
    'image-start'
    """
    if name not in pretrained_names():
        raise InputError(f"name must be one of {', '.join(pretrained_names())}, got {name!r}")
    return read_bank(FOLDER / f"{name}.safetensors", device)


def is_pretrained(where: pathlib.Path) -> bool:
    """Return whether `--init-from` names an initialization that comes with the package, and not a folder.

    >>> is_pretrained(pathlib.Path("nowhere"))
    False
    """
    return str(where) in pretrained_names() and not where.exists()


def initialization_from(where: pathlib.Path, system: str, device: torch.device | str = "cpu") -> Result:
    """Return the result that `--init-from` names: one that comes with the package, or that of a former run.

    Raises InputError if there is none, or it is of another system or has no meta-learned initialization.

    >>> initialization_from(pathlib.Path("faces"), "image-start").bank.spec.width
    64
    """
    shipped = is_pretrained(where)
    if not shipped and not where.is_dir():
        names = ", ".join(pretrained_names())
        raise InputError(f"init-from: {where} must be a run folder with an initialization, or one of {names}")
    result = pretrained_result(str(where), device) if shipped else read_result(where, device)
    if result.system != system:
        raise InputError(f"init-from: {where} must hold a result of {system}, got one of {result.system}")
    if result.initialization not in ("meta", "modules"):
        raise InputError(f"init-from: {where} must hold a meta-learned initialization, got {result.initialization}")
    return result
