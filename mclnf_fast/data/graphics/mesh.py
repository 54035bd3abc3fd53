"""Triangle meshes as plain data: vertices, faces, and what each corner of a face looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

CREASE = 40.0  # degrees between faces above which an edge is drawn sharp


@dataclass(frozen=True)
class Mesh:
    """F triangles over N vertices.

    Attributes:
        vertices: float32 [N, 3], scene units, world z up.
        faces: int64 [F, 3], counter-clockwise as seen from outside.
        colors: float32 [F, 3, 3], linear RGB albedo of each corner of each face; a texture multiplies it.
        normals: float32 [F, 3, 3], unit shading normals of the corners.
        closed: whether the faces bound solids, outside to the front: then back faces are never seen.
        uv: float32 [F, 3, 2], place in the texture: u to the right, v upwards, both repeat with period 1.
        texture_ids: int64 [F], which of `textures` a face has; -1: none.
        textures: each float32 [h, w, 3], linear RGB, first row on top; or [h, w, 4], with an alpha: nothing is drawn
            where that is below 0.5.

    Raises:
        InputError: a shape or dtype other than these, an index out of range, values that are not finite.
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor
    normals: Tensor
    closed: bool = False
    uv: Tensor | None = None
    texture_ids: Tensor | None = None
    textures: tuple[Tensor, ...] = ()

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
        for k, texture in enumerate(self.textures):
            if texture.ndim != 3 or 0 in texture.shape or texture.shape[2] not in (3, 4):
                raise InputError(f"textures[{k}]: must be [h, w, 3] or [h, w, 4], was {tuple(texture.shape)}")
            _check(texture, f"textures[{k}]", tuple(texture.shape), torch.float32)

    def moved(self, shift: Tensor, scale: float = 1.0) -> Mesh:
        """Every vertex v at `scale * (v + shift)`; `shift` [3]."""
        return replace(self, vertices=(self.vertices + shift) * scale)

    def into_ball(self, radius: float = 1.0) -> Mesh:
        """The mesh with its box's middle at the origin and its farthest vertex at `radius`.

        Raises:
            InputError: no face, or all of them in one point.
        """
        if not len(self.faces):
            raise InputError("mesh: must have at least one face, has none")
        used = self.vertices[self.faces.unique()]
        middle = 0.5 * (used.amin(0) + used.amax(0))
        reach = float((used - middle).norm(dim=1).max())
        if not reach > 0:
            raise InputError("mesh: must have an extent, all of its vertices are one point")
        return self.moved(-middle, radius / reach)


def _check(value: Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise InputError(f"{name}: must be {dtype} {list(shape)}, was {value.dtype} {list(value.shape)}")
    if dtype.is_floating_point and not bool(torch.isfinite(value).all()):
        raise InputError(f"{name}: must be finite, holds NaN or infinity")


def make_mesh(
    vertices: Tensor, faces: Tensor, colors: Tensor, *, closed: bool = False, crease: float = CREASE
) -> Mesh:  # fmt: skip
    """A mesh from vertices [N, 3], faces [F, 3] and linear colours of faces [F, 3] or of their corners [F, 3, 3].

    Normals are smoothed over edges flatter than `crease` degrees.
    """
    vertices, faces = vertices.to(torch.float32), faces.to(torch.int64)
    corners = colors[:, None].expand(-1, 3, -1) if colors.ndim == 2 else colors
    normals = corner_normals(vertices, faces, crease)
    return Mesh(vertices, faces, corners.to(torch.float32).contiguous(), normals, closed)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Cross products [F, 3] of the faces' sides: outward, twice the area long."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def corner_normals(vertices: Tensor, faces: Tensor, crease: float) -> Tensor:
    """Unit normals [F, 3, 3] of the corners: the mean, by area, of the faces about the vertex that are within `crease`
    degrees of the corner's own face."""
    area = face_normals(vertices.double(), faces)
    unit = torch.nn.functional.normalize(area, dim=1)
    order = faces.reshape(-1).argsort(stable=True)  # corners, those of one vertex together
    counts = torch.bincount(faces.reshape(-1), minlength=len(vertices))
    first = counts.cumsum(0) - counts
    # Every ordered pair of corners of one vertex.
    vertex = faces.reshape(-1)
    many = counts[vertex]
    corner = torch.arange(len(vertex)).repeat_interleave(many)
    step = torch.arange(len(corner)) - (many.cumsum(0) - many).repeat_interleave(many)
    other = torch.div(order[first[vertex[corner]] + step], 3, rounding_mode="floor")
    mine = torch.div(corner, 3, rounding_mode="floor")
    near = (unit[mine] * unit[other]).sum(1) > torch.cos(torch.deg2rad(torch.tensor(crease, dtype=torch.float64)))
    total = torch.zeros(len(vertex), 3, dtype=torch.float64)
    total.index_add_(0, corner[near], area[other[near]])
    return torch.nn.functional.normalize(total, dim=1).reshape(-1, 3, 3).to(torch.float32)


def join(parts: Sequence[Mesh]) -> Mesh:
    """One mesh of several without textures, closed where all are."""
    if not parts:
        raise InputError("parts: at least one mesh is needed to join, was none")
    if any(part.textures for part in parts):
        raise InputError("parts: must be without textures to be joined, one has some")
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.vertices))
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.faces + start for part, start in zip(parts, starts, strict=False)]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.normals for part in parts]),
        all(part.closed for part in parts),
    )


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB values in [0, 1] as linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055).clamp_min(0.0) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light in [0, 1] as sRGB values (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055)
