"""Reads files of triangle meshes (glTF, OBJ) as `Mesh`, with their colors and textures, z up and x forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.graphics.mesh import CREASE, Mesh, corner_normals, face_normals, to_linear
from mclnf_fast.data.readers.decoding.extras import error_reason, import_extra
from mclnf_fast.data.readers.decoding.gltf_images import check_images
from mclnf_fast.data.readers.decoding.pictures import decoded
from mclnf_fast.data.readers.files import safe_path
from mclnf_fast.data.readers.layouts import IMAGES, DataFile, Layout, any_file, walk
from mclnf_fast.errors import InputError

MESHES = (".glb", ".gltf", ".obj")
GRAY = 0.6  # sRGB, when a file names no color
MOST_PAIRS = 1 << 26  # of faces at one vertex; above it edges are left sharp
MOST_BYTES = 1 << 30
CUTOFF = 0.5  # of alpha, when a material names none


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


class _Resolver:
    """Gives trimesh the files that a mesh names, none from outside of `root`.

    Errors are kept in `errors`, since trimesh goes on without a texture that it could not read.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path = root, path
        self.errors: list[InputError] = []

    def get(self, name: str) -> bytes:
        try:
            path = safe_path(self.root, self.path.parent, str(name), self.path)
            content = path.read_bytes()
            if path.suffix.lower() in IMAGES:
                decoded(path)  # trimesh would leave out a corrupt one, too
            return content
        except OSError as error:
            self.errors.append(InputError(f"{self.path}: must have its file {name!r}: {error_reason(error)}"))
            raise
        except InputError as error:
            self.errors.append(error)
            raise

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def keys(self) -> list[str]:
        """Return no names: trimesh would otherwise look for files that the mesh does not name."""
        return []

    def namespaced(self, namespace: str) -> _Resolver:
        return self


def read_mesh(root: Path, path: Path) -> Mesh:
    """Return the mesh in `path`, which may name textures inside `root`.

    The file has y up and z forward (glTF's axes), the result z up and x forward. Parts that a glTF material makes
    transparent are cut out: alphaMode MASK or BLEND, and the texture's alpha times its factor's below the cutoff (0.5
    if none is named). Alpha of vertex colors and of OBJ is passed over.

    Raises:
        InputError: unreadable, without faces, not finite, a texture missing, corrupt or outside of `root`.
        MissingExtraError: the extra `meshes` is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.obj")
    ...     _ = path.write_text("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf 1 2 3\\n")
    ...     mesh = read_mesh(Path(folder), path)
    >>> mesh.faces.shape
    torch.Size([1, 3])
    """
    trimesh = import_extra("trimesh", f"{path.suffix} meshes", "meshes")
    # The parser needs several times the file's size; above this it ends without memory and without a message.
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: must be at most {MOST_BYTES >> 20} MiB, was {path.stat().st_size >> 20} MiB")
    resolver = _Resolver(root, path)
    try:
        if path.suffix.lower() != ".obj":
            check_images(path, resolver.get)
        with path.open("rb") as file:
            scene = trimesh.load_scene(file, file_type=path.suffix[1:].lower(), resolver=resolver)
        parts = [
            (np.asarray(matrix, np.float64), scene.geometry[name])
            # Sorted, so that the order of faces, which decides between two at one depth, does not depend on the parser.
            for node in sorted(scene.graph.nodes_geometry)
            for matrix, name in [scene.graph[node]]
        ]
        cache: dict[tuple[int, float | None], Tensor] = {}
        visible = [
            (matrix, part) for matrix, part in parts if len(getattr(part, "faces", ())) and not _is_transparent(part)
        ]
        meshes = [_mesh_of(matrix, part, path, cache) for matrix, part in visible]
    except InputError:
        raise
    except Exception as error:  # a corrupt file fails anywhere in the parser
        if resolver.errors:
            raise resolver.errors[0] from None
        raise InputError(f"{path}: must be a readable mesh: {type(error).__name__}: {error_reason(error)}") from None
    if resolver.errors:
        raise resolver.errors[0]
    if not meshes:
        raise InputError(f"{path}: must hold at least one triangle, holds none")
    return _joined(meshes)


def _mesh_of(matrix: np.ndarray, part: Any, path: Path, cache: dict[tuple[int, float | None], Tensor]) -> Mesh:
    """Return one geometry of a scene at its place, `matrix` [4, 4].

    `cache` holds textures by the `id` of their picture and the factor of its alpha: parts often share one.
    """
    vertices = np.asarray(part.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(part.faces, np.int64)
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: vertices must be finite, some are not")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: faces must name its {len(vertices)} vertices, some do not")
    if np.linalg.det(matrix[:3, :3]) < 0:  # mirrored: the outside would become the inside
        faces = faces[:, ::-1].copy()
    vertices = vertices[:, (2, 0, 1)]
    positions, index = torch.from_numpy(vertices).to(torch.float32), torch.from_numpy(faces)
    visual = part.visual
    kind = visual.kind
    colors = torch.full((len(faces), 3, 3), float(to_linear(torch.tensor(GRAY))))
    uv, ids = None, None
    textures: tuple[Tensor, ...] = ()
    is_linear = path.suffix.lower() != ".obj"  # glTF's factors and vertex colors are linear, OBJ's are not
    if kind == "texture":
        image, factor = _material(visual.material)
        factor = factor if is_linear else to_linear(factor)
        colors = factor.expand(len(faces), 3, 3).contiguous()
        if image is not None and visual.uv is not None and len(visual.uv) == len(vertices):
            corners = np.asarray(visual.uv, np.float32)[faces]
            if not np.isfinite(corners).all():
                raise InputError(f"{path}: places in textures must be finite, some are not")
            uv, ids = torch.from_numpy(corners), torch.zeros(len(faces), dtype=torch.int64)
            key = id(image), _alpha_scale(visual.material)
            if key not in cache:
                cache[key] = _texture(image, key[1])
            textures = (cache[key],)
    elif kind in ("vertex", "face"):
        rgb = np.asarray(visual.vertex_colors if kind == "vertex" else visual.face_colors)[:, :3]
        paint = torch.from_numpy(rgb.astype(np.float32) / 255.0)
        paint = paint if is_linear else to_linear(paint)
        colors = (paint[index] if kind == "vertex" else paint[:, None].expand(-1, 3, -1)).contiguous()
    return Mesh(positions, index, colors, _normals(positions, index), False, uv, ids, textures)


def _texture(image: Any, scale: float | None) -> Tensor:
    """Return a picture as float32 [h, w, 3], linear; with a `scale` [h, w, 4] if its alpha times that falls below 1/2.

    The renderer cuts at an alpha of 1/2; `scale` brings a material's own cutoff there (`_alpha_scale`). A picture that
    is opaque everywhere goes without the fourth channel, which would have to be looked up at every sample.
    """
    color = to_linear(torch.arange(256) / 255.0)[torch.from_numpy(np.array(image.convert("RGB"))).long()]
    if scale is None:
        return color
    alpha = torch.from_numpy(np.array(image.convert("RGBA"))[..., 3:]).to(torch.float32) * (scale / 255.0)
    return torch.cat((color, alpha), 2) if float(alpha.min()) < 0.5 else color


def _alpha_scale(material: Any) -> float | None:
    """Return the factor that brings a material's cutoff of alpha to 1/2; None: the material is opaque.

    It is the alpha of the material's factor over twice the cutoff.
    """
    if getattr(material, "alphaMode", None) not in ("MASK", "BLEND"):
        return None
    cutoff = getattr(material, "alphaCutoff", None) if material.alphaMode == "MASK" else None
    cutoff = CUTOFF if cutoff is None else float(cutoff)
    factor = getattr(material, "baseColorFactor", None)
    values = np.ones(4) if factor is None else np.asarray(factor)
    alpha = float(values[3]) / (255.0 if values.dtype.kind in "iu" else 1.0) if len(values) > 3 else 1.0
    return 0.5 * alpha / cutoff if cutoff > 0 else None


def _is_transparent(part: Any) -> bool:
    """Return whether a geometry without a texture is wholly transparent."""
    if part.visual.kind != "texture" or _material(part.visual.material)[0] is not None:
        return False
    scale = _alpha_scale(part.visual.material)
    return scale is not None and scale < 0.5


def _material(material: Any) -> tuple[Any, Tensor]:
    """Return the picture (or None) and the color factor [3] of a material."""
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    if image is None and hasattr(material, "image"):
        image, factor = material.image, (None if material.image is not None else material.diffuse)
    if factor is None:
        return image, torch.ones(3) if image is not None else torch.full((3,), GRAY)
    values = np.asarray(factor)
    scale = 255.0 if values.dtype.kind in "iu" else 1.0
    return image, torch.from_numpy(values[:3].astype(np.float32) / np.float32(scale)).clamp(0.0, 1.0)


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
    textures: list[Tensor] = []
    offset = 0
    for part in parts:
        vertices.append(part.vertices)
        faces.append(part.faces + offset)
        offset += len(part.vertices)
        number = -1
        for texture in part.textures:
            known = [k for k, candidate in enumerate(textures) if candidate is texture]
            number = known[0] if known else len(textures)
            if not known:
                textures.append(texture)
        uv.append(torch.zeros(len(part.faces), 3, 2) if part.uv is None else part.uv)
        ids.append(torch.full((len(part.faces),), number))
    return Mesh(
        vertices=torch.cat(vertices),
        faces=torch.cat(faces),
        colors=torch.cat([part.colors for part in parts]),
        normals=torch.cat([part.normals for part in parts]),
        closed=False,  # a file makes no promise about it: both sides of its faces are drawn
        uv=torch.cat(uv),
        texture_ids=torch.cat(ids),
        textures=tuple(textures),
    )
