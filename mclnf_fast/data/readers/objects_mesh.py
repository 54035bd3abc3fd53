"""Reads files of triangle meshes (glTF, OBJ) as `Mesh`, with their colors and textures, z up and x forward."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.graphics.mesh import CREASE, Mesh, Wrap, corner_normals, face_normals
from mclnf_fast.data.readers.decoding.extras import error_reason
from mclnf_fast.data.readers.decoding.gltf_scene import read_gltf
from mclnf_fast.data.readers.decoding.mesh_part import MeshPart
from mclnf_fast.data.readers.decoding.obj_file import read_obj
from mclnf_fast.data.readers.files import safe_path
from mclnf_fast.data.readers.layouts import DataFile, Layout, any_file, walk
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
MESHES = (".glb", ".gltf", ".obj")
MOST_PAIRS = 1 << 26  # of faces at one vertex; above it edges are left sharp
MOST_BYTES = 1 << 30


def mesh_reason(path: Path) -> str | None:
    """Return the reason why `path` is a mesh or a folder of meshes, or None.

    >>> mesh_reason(Path(__file__)) is None
    True
    """
    if path.is_file():
        return f"one mesh {path.suffix}" if path.suffix.lower() in MESHES else None
    return f"meshes below {path}" if any_file(path, MESHES) else None


def mesh_files(path: Path) -> Layout:
    """Return every mesh file below `path`, or the one that it is, named without its ending if that is unique.

    Raises:
        InputError: a folder that cannot be listed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.obj")
    ...     _ = path.write_text("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf 1 2 3\\n")
    ...     print([item.name for item in mesh_files(Path(folder)).pools["all"]])
    ['a']
    """
    if path.is_file():
        return Layout(path.stem, {"all": [DataFile(path, path.stem)]})
    items = [DataFile(file, file.relative_to(path).with_suffix("").as_posix()) for file in walk(path, MESHES)]
    names = [item.name for item in items]
    items = [
        item if names.count(item.name) == 1 else DataFile(item.path, item.path.relative_to(path).as_posix())
        for item in items
    ]
    return Layout(f"{path.resolve().name} (meshes)", {"all": items})


def read_mesh(root: Path, path: Path) -> Mesh:
    """Return the mesh in `path`, which may name textures inside `root`.

    The file has y up and z forward (glTF's axes), the result z up and x forward. Base colors alone are read, no gloss
    and no light. Parts that a material makes transparent are cut out: in glTF by alphaMode MASK or BLEND, and an alpha
    (the product of the texture's, the factor's and the vertices') below the cutoff (0.5 if none is named); in OBJ by
    `d` or `Tr`. See `read_gltf` and `read_obj`.

    Raises:
        InputError: unreadable, without faces, not finite, a feature that is not read, a texture missing, corrupt or
            outside of `root`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.obj")
    ...     _ = path.write_text("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf 1 2 3\\n")
    ...     mesh = read_mesh(Path(folder), path)
    >>> mesh.faces.shape
    torch.Size([1, 3])
    """
    # Read whole: above this a file ends without memory and without a message.
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: must be at most {MOST_BYTES >> 20} MiB, was {path.stat().st_size >> 20} MiB")
    read = read_obj if path.suffix.lower() == ".obj" else read_gltf
    try:
        parts = read(path, lambda name: _beside(root, path, name))
    except InputError:
        raise
    except Exception as error:  # a corrupt file fails anywhere in the parser
        raise InputError(f"{path}: must be a readable mesh: {type(error).__name__}: {error_reason(error)}") from None
    if not parts:
        raise InputError(f"{path}: must hold at least one triangle, holds none")
    middle = _far_middle(parts, path)
    return _joined([_mesh_of(part, middle) for part in parts])


def _beside(root: Path, path: Path, name: str) -> bytes:
    """Return the content of a file that the mesh in `path` names, which must lie inside `root`."""
    inside = safe_path(root, path.parent, name, path)
    try:
        return inside.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must have its file {name!r}: {error_reason(error)}") from None


def _mesh_of(part: MeshPart, middle: np.ndarray) -> Mesh:
    """Return one part with its vertices moved by -`middle` [3], z up."""
    vertices = torch.from_numpy((part.vertices - middle)[:, (2, 0, 1)]).to(torch.float32)
    faces, colors = torch.from_numpy(part.faces), torch.from_numpy(part.colors)
    normals = _normals(vertices, faces)
    if part.uv is None or part.texture is None or part.textured is None:
        return Mesh(vertices, faces, colors, normals)
    ids = torch.from_numpy(part.textured.astype(np.int64) - 1)
    return Mesh(vertices, faces, colors, normals, False, torch.from_numpy(part.uv), ids, (part.texture,), (part.wrap,))


def _far_middle(parts: list[MeshPart], path: Path) -> np.ndarray:
    """Return the middle [3] of a mesh so far from the origin that float32 would move its vertices, else 0.

    Scans in coordinates of a map are; into the ball they are moved anyhow.
    """
    used = np.concatenate([part.vertices[part.faces].reshape(-1, 3) for part in parts])
    low, high = used.min(0), used.max(0)
    coarse = np.spacing(np.float32(np.abs(used).max())) > 1e-6 * float((high - low).max())
    if not coarse or not (high > low).any():
        return np.zeros(3)
    middle = np.round(0.5 * (low + high))
    _log.warning("%s: lies far from the origin, its vertices are taken relative to %s", path, middle.tolist())
    return np.asarray(middle)


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return corner normals [F, 3, 3], smooth over edges flatter than `CREASE`.

    Vertices at one place count as one: files repeat a vertex for each texture coordinate, and without that every such
    seam would be drawn as a sharp edge.
    """
    extent = float((vertices.amax(0) - vertices.amin(0)).max()) or 1.0
    cells = (vertices / (1e-6 * extent)).round().to(torch.int64)
    cells, same = torch.unique(cells, dim=0, return_inverse=True)
    counts = torch.bincount(same[faces].reshape(-1))
    if int((counts * counts).sum()) > MOST_PAIRS:
        unit = torch.nn.functional.normalize(face_normals(vertices, faces), dim=1)
        return unit[:, None].expand(-1, 3, -1).contiguous()
    return corner_normals(cells.to(torch.float32) * (1e-6 * extent), same[faces], CREASE)


def _joined(parts: list[Mesh]) -> Mesh:
    """Return one mesh of several, textures and all; a texture that several parts have is kept once."""
    vertices, faces, uv, ids = [], [], [], []
    textures: list[tuple[Tensor, Wrap]] = []
    offset = 0
    for part in parts:
        vertices.append(part.vertices)
        faces.append(part.faces + offset)
        offset += len(part.vertices)
        own = torch.full((len(part.faces),), -1) if part.texture_ids is None else part.texture_ids
        for texture, wrap in zip(part.textures, part.wraps, strict=True):
            known = [k for k, pair in enumerate(textures) if pair[0] is texture and pair[1] == wrap]
            if not known:
                textures.append((texture, wrap))
            own = torch.where(own >= 0, known[0] if known else len(textures) - 1, own)
        uv.append(torch.zeros(len(part.faces), 3, 2, dtype=torch.float32) if part.uv is None else part.uv)
        ids.append(own)
    return Mesh(
        vertices=torch.cat(vertices),
        faces=torch.cat(faces),
        colors=torch.cat([part.colors for part in parts]),
        normals=torch.cat([part.normals for part in parts]),
        closed=False,  # a file makes no promise about it: both sides of its faces are drawn
        uv=torch.cat(uv),
        texture_ids=torch.cat(ids),
        textures=tuple(texture for texture, _ in textures),
        wraps=tuple(wrap for _, wrap in textures),
    )
