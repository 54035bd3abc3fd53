"""Files of triangle meshes (glTF, OBJ) as `Mesh`: their colours and textures kept, z up, x forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.graphics.mesh import CREASE, Mesh, corner_normals, face_normals, to_linear
from mclnf_fast.data.objects import FAR, NEAR
from mclnf_fast.data.readers.extras import extra, reason
from mclnf_fast.data.readers.files import decoded, safe_path
from mclnf_fast.data.readers.gltf_images import check_images
from mclnf_fast.data.readers.layouts import IMAGES, Found, Item, walk
from mclnf_fast.errors import InputError

MESHES = (".glb", ".gltf", ".obj")
GREY = 0.6  # sRGB, where a file says no colour
MOST_PAIRS = 1 << 26  # of faces at one vertex; above it edges are left sharp
MOST_BYTES = 1 << 30
CUTOFF = 0.5  # of alpha, where a material names none


def find_meshes(root: Path) -> tuple[Found, tuple[float, float]] | None:
    """Every mesh file below `root`, or the one that it is; and near and far of what is rendered from them."""
    if root.is_file():
        return (Found(root.stem, {"all": [Item(root, root.stem)]}), (NEAR, FAR)) if _is_mesh(root) else None
    items = [Item(path, path.relative_to(root).with_suffix("").as_posix()) for path in walk(root, MESHES)]
    names = [item.name for item in items]
    items = [
        item if names.count(item.name) == 1 else Item(item.path, item.path.relative_to(root).as_posix())
        for item in items
    ]
    return (Found(f"{root.resolve().name} (meshes)", {"all": items}), (NEAR, FAR)) if items else None


def _is_mesh(path: Path) -> bool:
    return path.suffix.lower() in MESHES


class _Beside:
    """Hands trimesh the files that a mesh names, none from outside of `root`; what went wrong is kept in `faults`,
    since trimesh passes over a texture that it lacks."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path = root, path
        self.faults: list[InputError] = []

    def get(self, name: str) -> bytes:
        try:
            place = safe_path(self.root, self.path.parent, str(name), self.path)
            content = place.read_bytes()
            if place.suffix.lower() in IMAGES:
                decoded(place)  # trimesh would leave out a torn one, too
            return content
        except OSError as error:
            self.faults.append(InputError(f"{self.path}: must have its file {name!r}: {reason(error)}"))
            raise
        except InputError as error:
            self.faults.append(error)
            raise

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def keys(self) -> list[str]:
        """None: nothing is looked for that the file does not name."""
        return []

    def namespaced(self, namespace: str) -> _Beside:
        return self


def read_mesh(root: Path, path: Path) -> Mesh:
    """The mesh in `path`, which may name textures inside `root`; y up and z forward in the file (glTF's axes), z up
    and x forward here. What a glTF material lets through (alphaMode MASK or BLEND, alpha of the texture times that of
    its factor below the cutoff, 0.5 where none is named) is cut out; vertex colours' alpha and that of OBJ are passed
    over.

    Raises:
        InputError: unreadable, without faces, not finite, a texture missing, torn or outside of `root`.
        MissingExtraError: the package trimesh is not installed.
    """
    trimesh = extra("trimesh", f"{path.suffix} meshes", "meshes")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: must be at most {MOST_BYTES >> 20} MiB, was {path.stat().st_size >> 20} MiB")
    beside = _Beside(root, path)
    try:
        if path.suffix.lower() != ".obj":
            check_images(path, beside.get)
        with path.open("rb") as file:
            scene = trimesh.load_scene(file, file_type=path.suffix[1:].lower(), resolver=beside)
        parts = [
            (np.asarray(matrix, np.float64), scene.geometry[name])
            for node in sorted(scene.graph.nodes_geometry)
            for matrix, name in [scene.graph[node]]
        ]
        cache: dict[tuple[int, float | None], Tensor] = {}
        shown = [(matrix, part) for matrix, part in parts if len(getattr(part, "faces", ())) and not _clear(part)]
        built = [_part(matrix, part, path, cache) for matrix, part in shown]
    except InputError:
        raise
    except Exception as error:  # a torn file fails anywhere in the parser
        if beside.faults:
            raise beside.faults[0] from None
        raise InputError(f"{path}: must be a readable mesh: {type(error).__name__}: {reason(error)}") from None
    if beside.faults:
        raise beside.faults[0]
    if not built:
        raise InputError(f"{path}: must hold at least one triangle, holds none")
    return _joined(built)


def _part(matrix: np.ndarray, part: Any, path: Path, cache: dict[tuple[int, float | None], Tensor]) -> Mesh:
    """One geometry of a scene at its place; `cache` holds the textures of pictures by their `id` and what their alpha
    is multiplied with."""
    vertices = np.asarray(part.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(part.faces, np.int64)
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: vertices must be finite, some are not")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: faces must name its {len(vertices)} vertices, some do not")
    if np.linalg.det(matrix[:3, :3]) < 0:  # mirrored
        faces = faces[:, ::-1].copy()
    vertices = vertices[:, (2, 0, 1)]
    at, index = torch.from_numpy(vertices).to(torch.float32), torch.from_numpy(faces)
    visual = part.visual
    kind = visual.kind
    colors = torch.full((len(faces), 3, 3), float(to_linear(torch.tensor(GREY))))
    uv, ids = None, None
    textures: tuple[Tensor, ...] = ()
    is_linear = path.suffix.lower() != ".obj"  # glTF's factors and vertex colours are linear, OBJ's are not
    if kind == "texture":
        image, factor = _material(visual.material)
        factor = factor if is_linear else to_linear(factor)
        colors = factor.expand(len(faces), 3, 3).contiguous()
        if image is not None and visual.uv is not None and len(visual.uv) == len(vertices):
            values = np.asarray(visual.uv, np.float32)[faces]
            if not np.isfinite(values).all():
                raise InputError(f"{path}: places in textures must be finite, some are not")
            uv, ids = torch.from_numpy(values), torch.zeros(len(faces), dtype=torch.int64)
            key = id(image), _alpha_scale(visual.material)
            if key not in cache:
                cache[key] = _texture(image, key[1])
            textures = (cache[key],)
    elif kind in ("vertex", "face"):
        given = np.asarray(visual.vertex_colors if kind == "vertex" else visual.face_colors)[:, :3]
        paint = torch.from_numpy(given.astype(np.float32) / 255.0)
        paint = paint if is_linear else to_linear(paint)
        colors = (paint[index] if kind == "vertex" else paint[:, None].expand(-1, 3, -1)).contiguous()
    return Mesh(at, index, colors, _normals(at, index), False, uv, ids, textures)


def _texture(image: Any, scale: float | None) -> Tensor:
    """A picture as float32 [h, w, 3], linear; with a `scale` its alpha times that behind, [h, w, 4], where any of it is
    below a half then."""
    color = to_linear(torch.arange(256) / 255.0)[torch.from_numpy(np.array(image.convert("RGB"))).long()]
    if scale is None:
        return color
    alpha = torch.from_numpy(np.array(image.convert("RGBA"))[..., 3:]).to(torch.float32) * (scale / 255.0)
    return torch.cat((color, alpha), 2) if float(alpha.min()) < 0.5 else color


def _alpha_scale(material: Any) -> float | None:
    """What brings a material's cutoff to a half: its factor's alpha over twice the cutoff; None: it is opaque."""
    if getattr(material, "alphaMode", None) not in ("MASK", "BLEND"):
        return None
    cutoff = getattr(material, "alphaCutoff", None) if material.alphaMode == "MASK" else None
    cutoff = CUTOFF if cutoff is None else float(cutoff)
    factor = getattr(material, "baseColorFactor", None)
    values = np.ones(4) if factor is None else np.asarray(factor)
    alpha = float(values[3]) / (255.0 if values.dtype.kind in "iu" else 1.0) if len(values) > 3 else 1.0
    return 0.5 * alpha / cutoff if cutoff > 0 else None


def _clear(part: Any) -> bool:
    """Whether a geometry without a texture lets all through."""
    if part.visual.kind != "texture" or _material(part.visual.material)[0] is not None:
        return False
    scale = _alpha_scale(part.visual.material)
    return scale is not None and scale < 0.5


def _material(material: Any) -> tuple[Any, Tensor]:
    """The picture (or None) and the colour factor [3] of a material."""
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    if image is None and hasattr(material, "image"):
        image, factor = material.image, (None if material.image is not None else material.diffuse)
    if factor is None:
        return image, torch.ones(3) if image is not None else torch.full((3,), GREY)
    values = np.asarray(factor)
    scale = 255.0 if values.dtype.kind in "iu" else 1.0
    return image, torch.from_numpy(values[:3].astype(np.float32) / np.float32(scale)).clamp(0.0, 1.0)


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Corner normals [F, 3, 3], smooth over edges that are flat where vertices are one place, whatever their number."""
    extent = float((vertices.amax(0) - vertices.amin(0)).max()) or 1.0
    places = (vertices / (1e-6 * extent)).round().to(torch.int64)
    places, same = torch.unique(places, dim=0, return_inverse=True)
    counts = torch.bincount(same[faces].reshape(-1))
    if int((counts * counts).sum()) > MOST_PAIRS:
        unit = torch.nn.functional.normalize(face_normals(vertices, faces), dim=1)
        return unit[:, None].expand(-1, 3, -1).contiguous()
    return corner_normals(places.to(torch.float32) * (1e-6 * extent), same[faces], CREASE)


def _joined(parts: list[Mesh]) -> Mesh:
    """One mesh of several, textures and all. A texture that several parts have is kept once."""
    vertices, faces, uv, ids = [], [], [], []
    textures: list[Tensor] = []
    start = 0
    for part in parts:
        vertices.append(part.vertices)
        faces.append(part.faces + start)
        start += len(part.vertices)
        number = -1
        for texture in part.textures:
            known = [k for k, other in enumerate(textures) if other is texture]
            number = known[0] if known else len(textures)
            if not known:
                textures.append(texture)
        uv.append(torch.zeros(len(part.faces), 3, 2) if part.uv is None else part.uv)
        ids.append(torch.full((len(part.faces),), number))
    return Mesh(
        torch.cat(vertices), torch.cat(faces), torch.cat([p.colors for p in parts]),
        torch.cat([p.normals for p in parts]), False, torch.cat(uv), torch.cat(ids), tuple(textures),
    )  # fmt: skip
