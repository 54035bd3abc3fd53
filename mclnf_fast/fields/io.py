"""Tensors on disk: safetensors with a checksum, written whole or not at all. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields.bank import FieldBank
from mclnf_fast.spec import FieldSpec, from_dict, to_dict

FORMAT = "mclnf_fast/1"


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes to a temporary name, flushes it to disk and renames: a reader sees the old file or the new
    one."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """One safetensors file with `meta` (anything JSON can hold) and a checksum in its header."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(dict(meta), sort_keys=True)
    checksum = hashlib.sha256((_digest(plain) + text).encode()).hexdigest()
    content = save(plain, metadata={"format": FORMAT, "meta": text, "sha256": checksum})
    write_atomically(path, _ordered(content))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its header in a fixed order: the library writes the metadata in a random one,
    and the same tensors must give the same bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote: (tensors, meta).

    Raises:
        InputError: no such file, not such a file, or bytes that changed since it was written.
    """
    from safetensors import SafetensorError, safe_open

    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: must be a file, but there is none")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"checkpoint {path}: must be a whole safetensors file, but reading it gave: {error}") from None
    if header.get("format") != FORMAT:
        raise InputError(f"checkpoint {path}: must have format {FORMAT}, got {header.get('format')!r}")
    if hashlib.sha256((_digest(tensors) + header.get("meta", "")).encode()).hexdigest() != header.get("sha256"):
        raise InputError(f"checkpoint {path}: must match its checksum, but its bytes have changed since it was written")
    return tensors, json.loads(header["meta"])


def save_bank(path: str | os.PathLike[str], bank: FieldBank, **meta: Any) -> None:
    """A bank as `path` (safetensors) with a JSON sidecar `path.json` that tells people what it holds."""
    described = {"spec": to_dict(bank.spec), "modules": len(bank), **meta}
    save_tensors(path, bank.state_dict(), described)
    write_atomically(f"{os.fspath(path)}.json", (json.dumps(described, indent=1) + "\n").encode())


def load_bank(path: str | os.PathLike[str], spec: FieldSpec | None = None) -> FieldBank:
    """The bank that `save_bank` wrote.

    Raises InputError as `load_tensors`, and where the file holds no bank or, with `spec` given, a bank of
    another architecture.
    """
    tensors, meta = load_tensors(path)
    try:
        found = from_dict(meta["spec"])
        modules = int(meta["modules"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {path}: must hold a bank with its spec, but: {error!r}") from None
    if spec is not None and spec != found:
        raise InputError(f"checkpoint {path}: must have the architecture {spec}, got {found}")
    try:
        bank = FieldBank(found, modules, dtype=tensors["weight.0"].dtype)
        bank.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"checkpoint {path}: its tensors do not fit its spec: {error}") from None
    return bank
