"""Joins banks on disk to one, without reading them into memory."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import (
    FORMAT,
    atomic_file,
    check_path,
    header_bytes,
    load_meta,
    load_tensors,
    opened,
    tensor_bytes,
    write_atomically,
)

NAMES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}


def join_banks(path: str | os.PathLike[str], parts: Sequence[pathlib.Path], **meta: Any) -> None:
    """Write the bank of all modules of the banks `parts`, as `save_bank` writes it, byte for byte.

    The shared initialization is that of the first.

    Args:
        path: of the bank; its folder is made.
        parts: files of `save_bank`, of one architecture and dtype, at least one.
        meta: as of `save_bank`.

    Raises:
        InputError: a part is none, is corrupt, or is of another architecture than the first; nothing is written then.
        OSError: it cannot be written.

    >>> import tempfile
    >>> from mclnf_fast.fields import FieldBank, load_bank, save_bank
    >>> from mclnf_fast.spec import FieldSpec
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for k in range(2):
    ...     save_bank(folder / str(k), FieldBank(FieldSpec(2, 3), modules=2))
    >>> join_banks(folder / "all", [folder / "0", folder / "1"])
    >>> len(load_bank(folder / "all"))
    4
    """
    path = check_path(path)
    if not parts:
        raise InputError("parts must hold at least one bank, got none")
    spec = load_meta(parts[0]).get("spec")
    shapes, dtype, modules = _shapes(parts[0])
    for part in parts[1:]:
        others, other_dtype, count = _shapes(part)
        if others != shapes or other_dtype != dtype or load_meta(part).get("spec") != spec:
            raise InputError(f"checkpoint {part}: must be a bank of the same architecture and dtype as {parts[0]}")
        modules += count
    described = {"spec": spec, "modules": modules, **meta}
    text = json.dumps(described, sort_keys=True)
    entries: dict[str, Any] = {}
    begin = 0
    for name, shape in sorted(shapes.items()):
        whole = shape if _is_shared(name) else (modules, *shape[1:])
        end = begin + torch.Size(whole).numel() * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(whole), "data_offsets": [begin, end]}
        begin = end
    # The checksum is known at the end and as long as this.
    entries["__metadata__"] = {"format": FORMAT, "meta": text, "sha256": "0" * 64}
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        file.write(header_bytes(entries))
        for name in sorted(shapes):
            digest.update(f"{name} {dtype} {tuple(entries[name]['shape'])}".encode())
            for part in parts[:1] if _is_shared(name) else parts:
                with opened(part) as bank:
                    content = tensor_bytes(bank.get_tensor(name))
                digest.update(content)
                file.write(content)
        entries["__metadata__"]["sha256"] = hashlib.sha256((digest.hexdigest() + text).encode()).hexdigest()
        file.seek(0)
        file.write(header_bytes(entries))
    write_atomically(f"{os.fspath(path)}.json", (json.dumps(described, indent=1) + "\n").encode())


def _is_shared(name: str) -> bool:
    return name.startswith("shared_")


def _shapes(part: pathlib.Path) -> tuple[dict[str, tuple[int, ...]], torch.dtype, int]:
    """Return the shapes of a bank's tensors, those of parameters with 0 modules, their dtype, and the modules."""
    tensors, _ = load_tensors(part)  # with its checksum, which the joined file's would otherwise hide
    if "weight.0" not in tensors:
        raise InputError(f"checkpoint {part}: must hold a bank, but holds {', '.join(tensors) or 'nothing'}")
    dtype, shapes = tensors["weight.0"].dtype, {name: tuple(t.shape) for name, t in tensors.items()}
    count = shapes["weight.0"][0]
    return {name: s if _is_shared(name) else (0, *s[1:]) for name, s in shapes.items()}, dtype, count
