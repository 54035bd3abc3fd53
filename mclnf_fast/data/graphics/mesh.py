"""Triangle meshes as plain data: vertices, faces, and the color and normal of each corner of a face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

Wrap = tuple[str, str]  # "repeat", "mirror" or "clamp" beyond a texture's edges, in u and v
REPEAT: Wrap = ("repeat", "repeat")
CREASE = 40.0  # degrees between faces above which an edge is drawn sharp


@dataclass(frozen=True)
class Mesh:
    """F triangles over N vertices.

    Attributes:
        vertices: float32 [N, 3], scene units, world z up.
        faces: int64 [F, 3], counter-clockwise as seen from outside.
        colors: float32 [F, 3, 3], linear RGB albedo of each corner of each face; a texture multiplies it.
        normals: float32 [F, 3, 3], unit shading normals of the corners.
        closed: whether the faces bound solids, front sides out: then back sides are never seen and are not drawn.
        uv: float32 [F, 3, 2], coordinates in the texture: u to the right, v upwards.
        texture_ids: int64 [F], index into `textures` of each face; -1: none.
        textures: each float32 [h, w, 3], linear RGB, first row on top; or [h, w, 4] with an alpha: samples with an
            alpha below 0.5 are not drawn.
        wraps: how each texture goes on outside of [0, 1], in u and v; empty: all repeat with period 1.

    Raises:
        InputError: another shape or dtype, an index out of range, values that are not finite.

    >>> triangle = make_mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    >>> triangle.normals.shape
    torch.Size([1, 3, 3])
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor
    normals: Tensor
    closed: bool = False
    uv: Tensor | None = None
    texture_ids: Tensor | None = None
    textures: tuple[Tensor, ...] = ()
    wraps: tuple[Wrap, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.faces)
        _check(self.vertices, "vertices", (len(self.vertices), 3), torch.float32)
        _check(self.faces, "faces", (count, 3), torch.int64)
        _check(self.colors, "colors", (count, 3, 3), torch.float32)
        _check(self.normals, "normals", (count, 3, 3), torch.float32)
        if count and not (int(self.faces.min()) >= 0 and int(self.faces.max()) < len(self.vertices)):
            wrong = int(self.faces.min()) if int(self.faces.min()) < 0 else int(self.faces.max())
            raise InputError(f"faces: must name vertices from 0 to {len(self.vertices) - 1}, one was {wrong}")
        if (self.uv is None) != (self.texture_ids is None):
            raise InputError("uv, texture_ids: must be given together or not at all, one of them was None")
        if self.uv is None or self.texture_ids is None:
            return
        _check(self.uv, "uv", (count, 3, 2), torch.float32)
        _check(self.texture_ids, "texture_ids", (count,), torch.int64)
        if count and not (int(self.texture_ids.min()) >= -1 and int(self.texture_ids.max()) < len(self.textures)):
            raise InputError(
                f"texture_ids: must be from -1 to {len(self.textures) - 1}, were {int(self.texture_ids.min())} to "
                f"{int(self.texture_ids.max())}"
            )
        modes = {mode for wrap in self.wraps for mode in wrap}
        if len(self.wraps) not in (0, len(self.textures)) or not modes <= {"repeat", "mirror", "clamp"}:
            raise InputError(f"wraps: must be repeat, mirror or clamp twice per texture, were {self.wraps!r}")
        for k, texture in enumerate(self.textures):
            if texture.ndim != 3 or 0 in texture.shape or texture.shape[2] not in (3, 4):
                raise InputError(f"textures[{k}]: must be [h, w, 3] or [h, w, 4], was {tuple(texture.shape)}")
            _check(texture, f"textures[{k}]", tuple(texture.shape), torch.float32)

    def wrap_of(self, texture: int) -> Wrap:
        """Return how a texture goes on outside of [0, 1]."""
        return self.wraps[texture] if self.wraps else REPEAT

    def moved(self, shift: Tensor, scale: float = 1.0) -> Mesh:
        """Return the mesh with every vertex v at `scale * (v + shift)`; `shift` [3]."""
        return replace(self, vertices=(self.vertices + shift) * scale)

    def into_ball(self, radius: float = 1.0) -> Mesh:
        """Return the mesh with the middle of its box at the origin and its farthest vertex at `radius`, scene units.

        Raises:
            InputError: no face, or all of them in one point.

        >>> ball = make_mesh(9 * torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3)).into_ball()
        >>> round(float(ball.vertices.norm(dim=1).max()), 4)
        1.0
        """
        if not len(self.faces):
            raise InputError("mesh: must have at least one face, has none")
        # Files hold vertices that no face uses, at the origin for example; they must not move the middle.
        used = self.vertices[self.faces.unique()]
        middle = 0.5 * (used.amin(0) + used.amax(0))
        reach = float((used - middle).norm(dim=1).max())
        if not reach > 0:
            raise InputError("mesh: must have an extent, all of its vertices are one point")
        return self.moved(-middle, radius / reach)


def _check(value: Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise `InputError` unless `value` has the shape and dtype, and is finite if it is a float."""
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise InputError(f"{name}: must be {dtype} {list(shape)}, was {value.dtype} {list(value.shape)}")
    if dtype.is_floating_point and not bool(torch.isfinite(value).all()):
        raise InputError(f"{name}: must be finite, holds NaN or infinity")


def make_mesh(vertices: Tensor, faces: Tensor, colors: Tensor, *, closed: bool = False, crease: float = CREASE) -> Mesh:
    """Return a mesh with normals smoothed over edges flatter than `crease` degrees.

    Args:
        vertices: [N, 3], scene units.
        faces: [F, 3].
        colors: linear RGB of faces [F, 3] or of their corners [F, 3, 3].
        closed: see `Mesh`.
        crease: degrees.

    >>> make_mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3)).colors.shape
    torch.Size([1, 3, 3])
    """
    vertices, faces = vertices.to(torch.float32), faces.to(torch.int64)
    corners = colors[:, None].expand(-1, 3, -1) if colors.ndim == 2 else colors
    normals = corner_normals(vertices, faces, crease)
    return Mesh(vertices, faces, corners.to(torch.float32).contiguous(), normals, closed)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the cross products [F, 3] of the faces' sides: outward, twice the area long.

    >>> face_normals(torch.eye(3), torch.tensor([[0, 1, 2]])).tolist()
    [[1.0, 1.0, 1.0]]
    """
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def corner_normals(vertices: Tensor, faces: Tensor, crease: float) -> Tensor:
    """Return unit normals [F, 3, 3] of the corners.

    Each is the mean, by area, of the faces about the vertex that lie within `crease` degrees of the corner's own face.

    >>> corner_normals(torch.eye(3), torch.tensor([[0, 1, 2]]), crease=40.0).norm(dim=2).round().tolist()
    [[1.0, 1.0, 1.0]]
    """
    # In double precision: a long thin face has sides that cancel in float32, and its normal would point anywhere.
    area = face_normals(vertices.double(), faces)
    unit = torch.nn.functional.normalize(area, dim=1)
    order = faces.reshape(-1).argsort(stable=True)  # corners, sorted by vertex
    counts = torch.bincount(faces.reshape(-1), minlength=len(vertices))
    begin = counts.cumsum(0) - counts
    # Every ordered pair of corners of one vertex at once; a loop over vertices would take minutes for a scanned mesh.
    vertex = faces.reshape(-1)
    repeats = counts[vertex]
    corner = torch.arange(len(vertex)).repeat_interleave(repeats)
    rank = torch.arange(len(corner)) - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    neighbor = torch.div(order[begin[vertex[corner]] + rank], 3, rounding_mode="floor")
    face = torch.div(corner, 3, rounding_mode="floor")
    is_smooth = (unit[face] * unit[neighbor]).sum(1) > torch.cos(
        torch.deg2rad(torch.tensor(crease, dtype=torch.float64))
    )
    total = torch.zeros(len(vertex), 3, dtype=torch.float64)
    total.index_add_(0, corner[is_smooth], area[neighbor[is_smooth]])
    return torch.nn.functional.normalize(total, dim=1).reshape(-1, 3, 3).to(torch.float32)


def join(parts: Sequence[Mesh]) -> Mesh:
    """Return one mesh of several without textures; it is closed if all of them are.

    Raises:
        InputError: no mesh, or one with a texture.

    >>> triangle = make_mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    >>> join([triangle, triangle]).faces.tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    if not parts:
        raise InputError("parts: at least one mesh is needed to join, was none")
    if any(part.textures for part in parts):
        raise InputError("parts: must be without textures to be joined, one has some")
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part.vertices))
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.faces + offset for part, offset in zip(parts, offsets, strict=False)]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.normals for part in parts]),
        all(part.closed for part in parts),
    )


def to_linear(srgb: Tensor) -> Tensor:
    """Return sRGB values in [0, 1] as linear light (IEC 61966-2-1).

    >>> to_linear(torch.tensor([0.0, 1.0])).round(decimals=4).tolist()
    [0.0, 1.0]
    """
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055).clamp_min(0.0) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Return linear light in [0, 1] as sRGB values (IEC 61966-2-1).

    >>> to_srgb(torch.tensor([0.0, 1.0])).round(decimals=4).tolist()
    [0.0, 1.0]
    """
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055)
