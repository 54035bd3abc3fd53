"""Checks the pictures inside of glTF files before their meshes are read, since trimesh passes over a corrupt one."""

from __future__ import annotations

import base64
import json
import struct
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.decoding.pictures import decoded
from mclnf_fast.errors import InputError

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942  # of the binary form (glTF 2.0, section 4.4)


def check_images(path: Path, read_beside: Callable[[str], bytes]) -> None:
    """Decode every picture that a .glb or .gltf holds itself, in a buffer or as a `data:` address.

    Args:
        path: the file.
        read_beside: function that reads another file that it names.

    Raises:
        InputError: a picture that is corrupt or no picture, or lies outside of its buffer.
        ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error: a corrupt or wrong file. Other faults
            of it are for its reader to report.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gltf")
    ...     _ = path.write_text('{"images": []}')
    ...     check_images(path, lambda name: b"")
    """
    content, binary = _json_and_binary(path.read_bytes())
    for k, image in enumerate(content.get("images", ())):
        name = Path(f"{path}#images/{k}")
        if "bufferView" in image:
            view = content["bufferViews"][image["bufferView"]]
            buffer = content["buffers"][view["buffer"]]
            data = _bytes_at(buffer["uri"], read_beside) if "uri" in buffer else binary
            begin, size = view.get("byteOffset", 0), view["byteLength"]
            if begin + size > len(data):
                raise InputError(f"{name}: must lie inside its buffer of {len(data)} bytes, ends at {begin + size}")
            decoded(name, data[begin : begin + size])
        elif str(image.get("uri", "")).startswith("data:"):
            decoded(name, _bytes_at(image["uri"], read_beside))


def _json_and_binary(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's description and the buffer behind it."""
    if len(raw) < 12 or struct.unpack_from("<I", raw)[0] != MAGIC:
        content: dict[str, Any] = json.loads(raw)
        return content, b""
    chunks: dict[int, bytes] = {}
    begin = 12
    while begin + 8 <= len(raw):
        size, kind = struct.unpack_from("<II", raw, begin)
        chunks.setdefault(kind, raw[begin + 8 : begin + 8 + size])  # of several of one kind the first counts
        begin += 8 + size
    return json.loads(chunks[JSON_CHUNK]), chunks.get(BINARY_CHUNK, b"")


def _bytes_at(uri: str, read_beside: Callable[[str], bytes]) -> bytes:
    """Return the bytes of an address: the content of a `data:` one, else of a file."""
    if not uri.startswith("data:"):
        return read_beside(urllib.parse.unquote(uri))
    head, _, body = uri.partition(",")
    return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
