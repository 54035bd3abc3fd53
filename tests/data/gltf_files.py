"""Small glTF files for tests: `glb` writes parts given as arrays, each a buffer view of its own."""

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def accessor(view: int, values: np.ndarray, **more) -> dict:
    values = values.reshape(len(values), -1)
    kind = {"componentType": CODES[values.dtype.str[1:]], "type": TYPES[values.shape[1]]}
    return {"bufferView": view, "count": len(values), **kind, **more}


def glb(path: Path, arrays: list, primitives: list[dict], accessors: list[dict] | None = None, **parts) -> Path:
    """A binary glTF with one mesh of `primitives`.

    Each of `arrays` is an array or a picture's bytes, and a buffer view; `accessors` replaces the one per array.
    """
    body, views = b"", []
    for array in arrays:
        blob = array if isinstance(array, bytes) else array.tobytes()
        body += bytes(-len(body) % 4)
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(blob)})
        body += blob
    body += bytes(-len(body) % 4)
    plain = [accessor(k, a) for k, a in enumerate(arrays) if not isinstance(a, bytes)]
    content = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": primitives}],
        "accessors": plain if accessors is None else accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
        **parts,
    }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + body
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
    return path


def textured(path: Path, places: np.ndarray, texture: dict | None = None, pixels=((9, 9, 9),), **parts) -> Path:
    """A triangle with places in a texture; `texture` is said of it in the material."""
    skin = {"baseColorTexture": {"index": 0, **(texture or {})}}
    return glb(
        path,
        [TRIANGLE, places, png([pixels])],
        [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}],
        **{
            "materials": [{"pbrMetallicRoughness": skin}],
            "textures": [{"source": 0}],
            "images": [{"bufferView": 2, "mimeType": "image/png"}],
            **parts,
        },
    )
