"""Opens glTF 2.0 files: their description, their buffers and the arrays (accessors) in them.

Arrays are read as the specification has them (sections 3.6.2 and 3.11): strides, sparse ones, normalized whole numbers.
The package that read them before passed over several of these without a word.
"""

from __future__ import annotations

import base64
import json
import struct
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.errors import InputError

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942  # of the binary form (section 4.4)
DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
# Extensions that a file may require: those that this package reads.
READ = (
    "KHR_texture_transform",
    "KHR_mesh_quantization",
    "KHR_materials_unlit",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_node_visibility",
    "EXT_texture_webp",
)


class GltfFile:
    """One .gltf or .glb.

    Malformed content raises `ValueError`, `LookupError`, `TypeError` or `struct.error` from any of the methods, whose
    caller names the file.

    Args:
        path: the file.
        read_beside: function that returns the content of another file that it names.

    Raises:
        InputError: it requires an extension that is not read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gltf")
    ...     _ = path.write_text('{"asset": {"version": "2.0"}, "accessors": [{"count": 2, "type": "SCALAR", '
    ...                         '"componentType": 5126}]}')
    ...     file = GltfFile(path, lambda name: b"")
    >>> file.array(0).tolist()
    [[0.0], [0.0]]
    """

    def __init__(self, path: Path, read_beside: Callable[[str], bytes]) -> None:
        self.path, self._read_beside = path, read_beside
        self.content, self._binary = _json_and_binary(path.read_bytes())
        self._buffers: dict[int, bytes] = {}
        version = str(self.content["asset"]["version"])
        if not version.startswith("2."):
            raise InputError(f"{path}: must be glTF 2, was of version {version[:20]}")
        for name in self.content.get("extensionsRequired", ()):
            if name not in READ:
                raise InputError(f"{path}: requires the extension {name}, which is not read")

    def list_of(self, key: str) -> list[dict[str, Any]]:
        """Return the objects under a key of the file, an empty list when there are none."""
        items = self.content.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ValueError(f"{key} must be a list of objects")
        return items

    def item(self, key: str, index: object) -> dict[str, Any]:
        """Return the object that an index points at."""
        items = self.list_of(key)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(items):
            raise ValueError(f"an index into {key} must be from 0 to {len(items) - 1}, was {index!r}")
        return items[index]

    def bytes_of(self, view_index: object) -> tuple[bytes, dict[str, Any]]:
        """Return the bytes of a buffer view, and its description."""
        view = self.item("bufferViews", view_index)
        extensions = view.get("extensions", {})
        buffer = self.item("buffers", view["buffer"])
        if "EXT_meshopt_compression" in extensions and "uri" not in buffer and buffer.get("extensions"):
            raise InputError(f"{self.path}: is compressed with EXT_meshopt_compression, which is not read")
        data = self._buffer(view["buffer"], buffer)
        begin, size = _count(view.get("byteOffset", 0)), _count(view["byteLength"])
        if begin + size > len(data):
            raise InputError(
                f"{self.path}#bufferViews/{view_index}: must lie inside its buffer of {len(data)} bytes, ends at "
                f"{begin + size}"
            )
        return data[begin : begin + size], view

    def _buffer(self, index: int, buffer: dict[str, Any]) -> bytes:
        if index not in self._buffers:
            self._buffers[index] = self.address(buffer["uri"]) if "uri" in buffer else self._binary
        return self._buffers[index]

    def address(self, uri: object) -> bytes:
        """Return the bytes at an address: the content of a `data:` one, else of a file beside this one."""
        if not isinstance(uri, str):
            raise ValueError(f"uri must be text, was {type(uri).__name__}")
        if not uri.startswith("data:"):
            return self._read_beside(urllib.parse.unquote(uri))
        head, _, body = uri.partition(",")
        return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)

    def array(self, index: object, normalize: bool = False) -> np.ndarray:
        """Return an accessor as [count, width]: whole numbers as they are, normalized ones and floats as float64.

        Args:
            index: of the accessor.
            normalize: take whole numbers as normalized, even if the accessor does not say so.
        """
        accessor = self.item("accessors", index)
        dtype, width = np.dtype(DTYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        count = _count(accessor["count"])
        if accessor.get("bufferView") is None:
            # Zeros that a sparse part replaces; alone they are bounded by the file, which has no bytes for them.
            if count > 1 << 28:
                raise ValueError(f"an accessor's count must be at most {1 << 28}, was {count}")
            values = np.zeros((count, width), dtype)
        else:
            values = self._strided(accessor["bufferView"], _count(accessor.get("byteOffset", 0)), dtype, count, width)
        sparse = accessor.get("sparse")
        if sparse is not None:
            amount, where, what = _count(sparse["count"]), sparse["indices"], sparse["values"]
            kind = np.dtype(DTYPES[where["componentType"]])
            rows = self._strided(where["bufferView"], _count(where.get("byteOffset", 0)), kind, amount, 1)[:, 0]
            values = values.copy()
            if len(rows) and (rows.min() < 0 or rows.max() >= count):
                raise ValueError(f"a sparse accessor's indices must be below {count}")
            values[rows] = self._strided(what["bufferView"], _count(what.get("byteOffset", 0)), dtype, amount, width)
        if dtype.kind == "f":
            return values.astype(np.float64)
        if normalize or accessor.get("normalized"):
            top = np.iinfo(dtype).max
            return np.maximum(values.astype(np.float64) / top, -1.0)
        return values

    def _strided(self, view_index: object, offset: int, dtype: np.dtype, count: int, width: int) -> np.ndarray:
        data, view = self.bytes_of(view_index)
        item = dtype.itemsize * width
        stride = _count(view.get("byteStride", item))
        if stride < item or (count and offset + stride * (count - 1) + item > len(data)):
            raise ValueError(f"{count} elements of {item} bytes must lie inside bufferViews/{view_index}")
        return np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"counts and offsets must be whole numbers >= 0, one was {value!r}")
    return value


def _json_and_binary(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's description and the buffer behind it."""
    binary = b""
    if len(raw) >= 12 and struct.unpack_from("<I", raw)[0] == MAGIC:
        length = struct.unpack_from("<I", raw, 8)[0]
        if length > len(raw):
            raise ValueError(f"{length} bytes were promised and {len(raw)} are there")
        chunks: dict[int, bytes] = {}
        begin = 12
        while begin + 8 <= length:
            size, kind = struct.unpack_from("<II", raw, begin)
            if begin + 8 + size > len(raw):
                raise ValueError(f"a chunk of {size} bytes must lie inside the file")
            chunks.setdefault(kind, raw[begin + 8 : begin + 8 + size])  # of several of one kind the first counts
            begin += 8 + size
        raw, binary = chunks[JSON_CHUNK], chunks.get(BINARY_CHUNK, b"")
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, was {type(content).__name__}")
    return content, binary
