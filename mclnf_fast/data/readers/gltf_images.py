"""The pictures inside of glTF files, looked at before their meshes are read: trimesh passes over one that is torn."""

from __future__ import annotations

import base64
import json
import struct
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.files import decoded
from mclnf_fast.errors import InputError

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942  # of the binary form (glTF 2.0, section 4.4)


def check_images(path: Path, beside: Callable[[str], bytes]) -> None:
    """Decodes every picture that a .glb or .gltf holds itself, in a buffer or as a `data:` address.

    Args:
        path: the file.
        beside: reads another file that it names.

    Raises:
        InputError: a picture that is torn or no picture, or lies outside of its buffer.
        ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error: a torn or wrong file; what else is
            wrong with it, its reader says.
    """
    content, binary = _parts(path.read_bytes())
    for k, image in enumerate(content.get("images", ())):
        place = Path(f"{path}#images/{k}")
        if "bufferView" in image:
            view = content["bufferViews"][image["bufferView"]]
            buffer = content["buffers"][view["buffer"]]
            whole = _named(buffer["uri"], beside) if "uri" in buffer else binary
            begin, size = view.get("byteOffset", 0), view["byteLength"]
            if begin + size > len(whole):
                raise InputError(f"{place}: must lie inside its buffer of {len(whole)} bytes, ends at {begin + size}")
            decoded(place, whole[begin : begin + size])
        elif str(image.get("uri", "")).startswith("data:"):
            decoded(place, _named(image["uri"], beside))


def _parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's description and the buffer behind it."""
    if len(raw) < 12 or struct.unpack_from("<I", raw)[0] != MAGIC:
        found: dict[str, Any] = json.loads(raw)
        return found, b""
    chunks: dict[int, bytes] = {}
    at = 12
    while at + 8 <= len(raw):
        size, kind = struct.unpack_from("<II", raw, at)
        chunks.setdefault(kind, raw[at + 8 : at + 8 + size])
        at += 8 + size
    return json.loads(chunks[JSON_CHUNK]), chunks.get(BINARY_CHUNK, b"")


def _named(uri: str, beside: Callable[[str], bytes]) -> bytes:
    """The bytes of an address: what a `data:` one holds, else a file."""
    if not uri.startswith("data:"):
        return beside(urllib.parse.unquote(uri))
    head, _, body = uri.partition(",")
    return base64.b64decode(body) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
