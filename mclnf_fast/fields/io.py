"""Tensors on disk: safetensors with a checksum, written whole or not at all, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.errors import InputError
from mclnf_fast.fields.bank import FieldBank
from mclnf_fast.spec import FieldSpec, from_dict, to_dict

FORMAT = "mclnf_fast/1"


def check_path(path: object) -> pathlib.Path:
    """Return the path of a file. Raises TypeError if it is none, InputError if no file can have it.

    >>> check_path("bank").name
    'bank'
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}")
    checked = pathlib.Path(path)
    if not checked.name or "\0" in str(checked):
        raise InputError(f"path must name a file, got {str(path)!r}")
    return checked


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write to a temporary name, flush it to disk and rename: a reader sees the old file or the new one."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to be written piece by piece, as `write_atomically` writes one.

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "two")
    >>> with atomic_file(path) as file:
    ...     _ = file.write(b"a"), file.write(b"b"), print(path.exists())
    False
    >>> path.read_bytes()
    b'ab'
    """
    path = check_path(path)
    if path.is_dir():
        raise InputError(f"path must name a file, got the folder {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the values of a tensor as they lie in a file, row by row.

    >>> tensor_bytes(torch.tensor([1, 258], dtype=torch.int16))
    b'\\x01\\x00\\x02\\x01'
    """
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write one safetensors file with `meta` (any JSON value) and a checksum in its header.

    Raises TypeError, ValueError for a path, tensors or meta that no file can have or hold; OSError if it can't be
    written.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/tensors"
    >>> save_tensors(path, {"x": torch.ones(2)}, {"unit": "m"})
    >>> load_tensors(path)
    ({'x': tensor([1., 1.])}, {'unit': 'm'})
    """
    from safetensors.torch import save

    for name, tensor in tensors.items():
        check_tensor(f"tensors[{name!r}]", tensor)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        text = json.dumps(dict(meta), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"meta must hold plain data that JSON can hold: {error}") from None
    checksum = hashlib.sha256((_digest(plain) + text).encode()).hexdigest()
    content = save(plain, metadata={"format": FORMAT, "meta": text, "sha256": checksum})
    write_atomically(path, _ordered(content))


def _ordered(content: bytes) -> bytes:
    """Return the same safetensors file with its header in a fixed order: the library writes the metadata in a random
    one, and the same tensors must give the same bytes."""
    length = int.from_bytes(content[:8], "little")
    return header_bytes(json.loads(content[8 : 8 + length])) + content[8 + length :]


def header_bytes(entries: Mapping[str, Any]) -> bytes:
    """Return the header of a safetensors file in front of its tensors, its length first.

    >>> header_bytes({})
    b'\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00{}      '
    """
    header = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read (tensors, meta) that `save_tensors` wrote.

    Raises:
        InputError: no such file, a file of another kind, or bytes that changed since it was written.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/tensors"
    >>> save_tensors(path, {}, {"step": 3})
    >>> load_tensors(path)
    ({}, {'step': 3})
    """
    path = check_path(path)
    with opened(path) as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    meta = _meta(path, header)
    if hashlib.sha256((_digest(tensors) + header.get("meta", "")).encode()).hexdigest() != header.get("sha256"):
        raise InputError(f"checkpoint {path}: must match its checksum, but its bytes have changed since it was written")
    return tensors, meta


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the meta that `save_tensors` wrote, without the tensors; nothing is compared with the checksum.

    Raises InputError as `load_tensors`.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/tensors"
    >>> save_tensors(path, {}, {"step": 3})
    >>> load_meta(path)
    {'step': 3}
    """
    path = check_path(path)
    with opened(path) as file:
        return _meta(path, file.metadata() or {})


def _meta(path: pathlib.Path, header: Mapping[str, str]) -> dict[str, Any]:
    if header.get("format") != FORMAT:
        raise InputError(f"checkpoint {path}: must have format {FORMAT}, got {header.get('format')!r}")
    try:
        return dict(json.loads(header["meta"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path}: must have a header of plain data, but: {error!r:.200}") from None


@contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """Open a safetensors file, whose tensors are read when they are asked for. Raises InputError if it is none.

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "tensors")
    >>> save_tensors(path, {"x": torch.ones(2)}, {})
    >>> with opened(path) as file:
    ...     print(file.get_slice("x")[1:])
    tensor([1.])
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"checkpoint {path}: must be a file, but there is none")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"checkpoint {path}: must be a whole safetensors file, but reading it gave: {error}") from None


def save_bank(path: str | os.PathLike[str], bank: FieldBank, **meta: Any) -> None:
    """Write a bank as `path` (safetensors) with a JSON sidecar `path.json` that describes it to people.

    Raises as `save_tensors`, and TypeError if `bank` is none.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/bank"
    >>> save_bank(path, FieldBank(FieldSpec(2, 3), modules=4), scene="city")
    >>> len(load_bank(path))
    4
    """
    if not isinstance(bank, FieldBank):
        raise TypeError(f"bank must be a FieldBank, got {type(bank).__name__}")
    path = check_path(path)
    described = {"spec": to_dict(bank.spec), "modules": len(bank), **meta}
    save_tensors(path, bank.state_dict(), described)
    write_atomically(f"{os.fspath(path)}.json", (json.dumps(described, indent=1) + "\n").encode())


def load_bank(
    path: str | os.PathLike[str],
    spec: FieldSpec | None = None,
    *,
    device: torch.device | str = "cpu",
    modules: Sequence[int] | slice | None = None,
) -> FieldBank:
    """Read the bank that `save_bank` wrote; or, with `spec` given, one from any safetensors file of its parameters.

    Args:
        path: the file.
        spec: the architecture that it must have; None: its own. Of another program's file: `weight.<l>` [M, in, out],
            `bias.<l>` [M, out] and `grid.<k>`, as a bank names its parameters, or what
            `torch.func.stack_module_state` returns (`FieldBank.from_stacked`).
        device: of the bank.
        modules: those to be kept, ids or a slice; None: all. The whole file is compared with its checksum.

    Raises:
        InputError: as `load_tensors`, and if the file holds no bank or a bank of another architecture.
        IndexError, TypeError: `modules` names none of the bank.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/bank"
    >>> save_bank(path, FieldBank(FieldSpec(2, 3), modules=5))
    >>> bank = load_bank(path, modules=[4, 0])
    >>> bank.spec == FieldSpec(2, 3), len(bank)
    (True, 2)
    """
    bank = _read_bank(check_path(path), spec)
    if modules is not None:
        bank = bank[bank.row_ids(modules, "modules")]
    return bank.to(device)


def _read_bank(path: pathlib.Path, spec: FieldSpec | None) -> FieldBank:
    with opened(path) as file:
        ours = (file.metadata() or {}).get("format") == FORMAT
        if not ours and spec is not None:
            return _plain_bank(path, {name: file.get_tensor(name) for name in file.keys()}, spec)  # noqa: SIM118
    if not ours:
        raise InputError(
            f"checkpoint {path}: must have format {FORMAT}, as save_bank writes it, or be read with a spec"
        )
    tensors, meta = load_tensors(path)
    try:
        saved_spec = from_dict(meta["spec"])
        modules = int(meta["modules"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {path}: must hold a bank with its spec, but: {error!r}") from None
    if spec is not None and spec != saved_spec:
        raise InputError(f"checkpoint {path}: must have the architecture {spec}, got {saved_spec}")
    try:
        bank = FieldBank(saved_spec, modules, dtype=tensors["weight.0"].dtype)
        bank.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"checkpoint {path}: its tensors do not fit its spec: {error}") from None
    return bank


def _plain_bank(path: pathlib.Path, tensors: dict[str, Tensor], spec: FieldSpec) -> FieldBank:
    """Return a bank from tensors without a description."""
    try:
        if "weight.0" not in tensors:
            # Their order in a file is that of their names: layer 10 comes after layer 9.
            return FieldBank.from_stacked({name: tensors[name] for name in sorted(tensors, key=_natural)}, spec)
        first = {name: t[:1] for name, t in tensors.items() if not name.startswith("shared_")}
        modules, dtype = tensors["weight.0"].shape[0], tensors["weight.0"].dtype
        bank = FieldBank(spec, modules, dtype, init=[first[name] for name, _ in FieldBank(spec, 0).named_parameters()])
        bank.load_state_dict(tensors)
        return bank
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise InputError(f"checkpoint {path}: its tensors do not fit the spec: {error}") from None


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
