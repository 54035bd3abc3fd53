"""Rasterizes triangle meshes on the CPU: exact coverage at the samples, depth buffer, perspective-correct colors, sun
and sky light.

A face with the corners p_k = depth * (x, y, 1) in pixels covers the image position q = (x, y, 1) if b = [p_0 p_1
p_2]^-1 q is nowhere negative; sum(b) is the inverse depth there, and b / sum(b) weighs the corners in space (Olano and
Greer, Triangle scan conversion using 2D homogeneous coordinates, 1997). Nothing has to be clipped, and the side of an
edge is the very same number for both faces at it, so there are no gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.data.graphics.mesh import Mesh, Wrap, face_normals, to_srgb
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.lenses.views import check_pinhole

SUN = (0.48, -0.36, 0.80)  # direction towards the sun; z is up
SUN_LIGHT = (0.74, 0.71, 0.66)
SKY_LIGHT = (0.56, 0.58, 0.62)  # on faces that look up
GROUND_LIGHT = (0.25, 0.24, 0.23)  # on faces that look down
MOST_SPANS = 1 << 18  # rows of faces drawn together: about 100 MB, and few enough calls to hide their cost
NEAR = 1e-6  # scene units; nothing nearer is drawn
CUT = 0.5  # of a texture's alpha; samples below it are not drawn


def render_mesh(
    mesh: Mesh, cameras: Cameras, *, samples: int = 4, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return views of a mesh before nothing, uint8 [V, H, W, 4]: sRGB color, not premultiplied, and coverage.

    Light falls from the same directions in all views and nothing is glossy, so a point has one color from everywhere.
    Of a mesh that is not `closed` the side that is seen is lit.

    Args:
        mesh: the mesh to draw.
        cameras: V cameras, positions in the mesh's units.
        samples: samples per pixel, a square number; no two of a pixel share a row or a column.
        progress: called with (views done, views in total).

    Raises:
        InputError: `samples` is no square number >= 1.

    >>> from mclnf_fast.data import turntable
    >>> from mclnf_fast.data.graphics.mesh import make_mesh
    >>> triangle = make_mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), torch.ones(1, 3))
    >>> render_mesh(triangle, turntable(2, 8)).shape
    torch.Size([2, 8, 8, 4])
    """
    side = sample_side(samples)
    check_pinhole(cameras, "render_mesh")
    images = torch.empty(len(cameras), cameras.height, cameras.width, 4, dtype=torch.uint8)
    front = _lit(mesh, mesh.normals)
    back = None if mesh.closed else _lit(mesh, -mesh.normals)
    for view in range(len(cameras)):
        images[view] = _view(mesh, cameras, view, side, front, back)
        if progress is not None:
            progress(view + 1, len(cameras))
    return images


def sample_side(samples: int) -> int:
    """Return the square root of a square number of samples per pixel.

    Raises:
        InputError: it is no square number >= 1.

    >>> sample_side(4)
    2
    """
    side = round(samples**0.5) if samples >= 1 else 0
    if side * side != samples or side < 1:
        raise InputError(f"samples: must be a square number of samples per pixel >= 1, was {samples}")
    return side


def _lit(mesh: Mesh, normals: Tensor) -> Tensor:
    """Return albedo times light at the corners, float32 [F, 3, 3], for faces whose `normals` [F, 3, 3] point out."""
    sun = torch.nn.functional.normalize(torch.tensor(SUN, dtype=torch.float32), dim=0)
    facing = (normals @ sun).clamp_min(0.0)[..., None]
    up = 0.5 + 0.5 * normals[..., 2:]
    light = (
        facing * torch.tensor(SUN_LIGHT, dtype=torch.float32)
        + up * torch.tensor(SKY_LIGHT, dtype=torch.float32)
        + (1.0 - up) * torch.tensor(GROUND_LIGHT, dtype=torch.float32)
    )
    return mesh.colors * light


def _view(mesh: Mesh, cameras: Cameras, view: int, side: int, front: Tensor, back: Tensor | None) -> Tensor:
    """Return one view, uint8 [H, W, 4]; `front` and `back` are the lit colors of both sides [F, 3, 3]."""
    width, height, count = cameras.width, cameras.height, side * side
    corners = _homogeneous(mesh.vertices, cameras, view)[mesh.faces]
    edges = _edges(corners)
    volume = _dot(corners[:, 0], edges[:, 0])  # < 0: the face looks at the camera (y is down here)
    face, pixel, sub = _visible(mesh, corners, edges, volume, (width, height), side)
    offset = _offsets(side)[sub]
    x = (pixel % width).double() + offset[:, 0]
    y = torch.div(pixel, width, rounding_mode="floor").double() + offset[:, 1]
    planes = edges[face]
    shares = [planes[:, k, 0] * x + planes[:, k, 1] * y + planes[:, k, 2] for k in range(3)]
    total = shares[0] + shares[1] + shares[2]
    weights = [(share / total).to(torch.float32)[:, None] for share in shares]
    lit = front[face]
    if back is not None:
        # The side towards the camera is lit; a stored normal may itself point to either side of its face.
        stored = (mesh.normals.sum(1) * face_normals(mesh.vertices, mesh.faces)).sum(1) < 0
        away = ((volume > 0) ^ stored)[face]
        lit = torch.where(away[:, None, None], back[face], lit)
    color = _mix(weights, lit)
    if mesh.uv is not None and mesh.texture_ids is not None:
        uv = _mix(weights, mesh.uv[face])
        for k, texture in enumerate(mesh.textures):
            rows = (mesh.texture_ids[face] == k).nonzero()[:, 0]
            color[rows] *= _texel(texture[..., :3], uv[rows], mesh.wrap_of(k))
    # One buffer per sample of a pixel, added up in a fixed order: one buffer for all would add up in any order, and two
    # runs would differ in the last bit.
    image = torch.zeros(count, width * height, 4, dtype=torch.float32)
    image[sub, pixel] = torch.cat([color, torch.ones(len(color), 1, dtype=torch.float32)], 1)
    image = image.sum(0)
    image[:, :3] = to_srgb((image[:, :3] / image[:, 3:].clamp_min(1.0)).clamp(0.0, 1.0))
    image[:, 3] /= count
    return (image * 255.0 + 0.5).to(torch.uint8).reshape(height, width, 4)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar products of rows [F, 3]."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _mix(weights: list[Tensor], corners: Tensor) -> Tensor:
    """Return values of the corners [S, 3, C] by their weights, three of [S, 1], as [S, C]."""
    return weights[0] * corners[:, 0] + weights[1] * corners[:, 1] + weights[2] * corners[:, 2]


def _homogeneous(vertices: Tensor, cameras: Cameras, view: int) -> Tensor:
    """Return vertices [N, 3] as depth * (x, y, 1), x and y in pixels (y down), float64 [N, 3]."""
    pose = cameras.c2w[view].double()
    local = (vertices.double() - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    x = float(cameras.fx[view]) * local[:, 0] + float(cameras.cx[view]) * depth
    y = -float(cameras.fy[view]) * local[:, 1] + float(cameras.cy[view]) * depth
    return torch.stack([x, y, depth], 1)


def _edges(corners: Tensor) -> Tensor:
    """Return the planes through the eye and the edge opposite to each corner, float64 [F, 3, 3].

    Written out so that an edge's plane in one face is exactly the negative of the other face's; with torch.linalg.cross
    the order of its operations could leave gaps of a sample between two faces.
    """
    a, b = corners[:, (1, 2, 0)], corners[:, (2, 0, 1)]
    x = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    y = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    z = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return torch.stack([x, y, z], 2)


def _offsets(side: int) -> Tensor:
    """Return the positions of the samples in a pixel, float64 [side^2, 2]: one per subcell, row and column (n-rooks).

    On a plain grid two samples would cross a nearly vertical edge at once, and it would show half as many grays.
    """
    j, i = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    x = (i + (side - j - 0.5) / side) / side
    y = (j + (i + 0.5) / side) / side
    return torch.stack([x.reshape(-1), y.reshape(-1)], 1)


@dataclass
class _Raster:
    """The buffer that faces are drawn into, and the data that all of them share.

    `edges` float64 [F, 3, 3] and `volume` [F] are those of `_edges`; `offsets` [samples, 2] those of `_offsets`; `size`
    is (width, height). `best` int64 [samples * H * W] holds the inverse depth's bits above and the face below, counted
    down so that the first of several at one depth wins.
    """

    mesh: Mesh
    edges: Tensor
    volume: Tensor
    offsets: Tensor
    size: tuple[int, int]
    best: Tensor


def _visible(
    mesh: Mesh, corners: Tensor, edges: Tensor, volume: Tensor, size: tuple[int, int], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest face at each covered sample: int64 face, flat pixel and sample within the pixel, each [S]."""
    width, height = size
    count = side * side
    depth = corners[..., 2]
    whole = depth.amin(1) > NEAR
    flat = corners[..., :2] / depth.clamp_min(NEAR)[..., None]
    # A face that reaches behind the camera may appear anywhere.
    everywhere = torch.tensor([0.0, float(height)], dtype=torch.float64)
    low = torch.where(whole, flat[..., 1].amin(1), everywhere[0]).clamp(0.0, height)
    high = torch.where(whole, flat[..., 1].amax(1), everywhere[1]).clamp(0.0, height)
    drawn = (depth.amax(1) > NEAR) & (volume < 0 if mesh.closed else volume != 0)
    drawn &= ~whole | ((flat[..., 0].amax(1) >= 0) & (flat[..., 0].amin(1) <= width))
    ids = drawn.nonzero()[:, 0]
    offsets = _offsets(side)
    # Rows whose sample lies within the face's height, for each of a pixel's samples.
    top = (low[ids, None] - offsets[:, 1]).ceil().clamp_min(0.0).to(torch.int64)
    rows = ((high[ids, None] - offsets[:, 1]).floor().clamp_max(height - 1).to(torch.int64) - top + 1).clamp_min(0)
    raster = _Raster(mesh, edges, volume, offsets, size, torch.zeros(count * width * height, dtype=torch.int64))
    total = rows.sum(1).cumsum(0)
    begin = 0
    while begin < len(ids):
        before = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(torch.searchsorted(total, before + MOST_SPANS, right=True)))
        chunk = slice(begin, end)
        _draw(raster, ids[chunk], top[chunk], rows[chunk])
        begin = end
    hit = raster.best.nonzero()[:, 0]
    face = len(edges) - 1 - (raster.best[hit] & 0xFFFFFFFF)
    return face, hit % (width * height), torch.div(hit, width * height, rounding_mode="floor")


def _draw(raster: _Raster, ids: Tensor, top: Tensor, rows: Tensor) -> None:
    """Put the samples of faces `ids` [n] into the buffer; `top` and `rows` [n, samples] are their first row and number
    of rows, for each of a pixel's samples."""
    width, height = raster.size
    item = torch.arange(rows.numel()).repeat_interleave(rows.reshape(-1))
    row = top.reshape(-1)[item] + _counting(rows.reshape(-1))
    sub = item % rows.shape[1]
    which = torch.div(item, rows.shape[1], rounding_mode="floor")
    face = ids[which]
    key, volume, place = len(raster.edges) - 1 - face, raster.volume[face].abs(), (sub * height + row) * width
    # Along a row the side of an edge is slope * x + rest: each edge cuts the row to one side of its crossing.
    y = row.double() + raster.offsets[sub, 1]
    shift = raster.offsets[sub, 0]
    planes = (raster.edges[ids] * torch.sign(raster.volume[ids])[:, None, None]).reshape(-1, 9)[which]
    slopes, rests = [], []
    left, right = torch.zeros_like(y), torch.full_like(y, width - 1.0)
    for k in range(3):
        slope, rest = planes[:, 3 * k], planes[:, 3 * k + 1] * y + planes[:, 3 * k + 2]
        crossing = -rest / slope - shift
        left = torch.maximum(left, torch.where(slope > 0, crossing, 0.0))
        right = torch.minimum(right, torch.where(slope < 0, crossing, width))
        right = torch.where((slope == 0) & (rest < 0), -1.0, right)
        slopes.append(slope)
        rests.append(rest)
    # A little too wide: rounding must not lose a sample that the exact test below would keep.
    start = (left.clamp_max(width) - 1e-3).ceil().to(torch.int64)
    lengths = ((right.clamp_min(-1.0) + 1e-3).floor().to(torch.int64) - start + 1).clamp_min(0)
    filled = lengths.nonzero()[:, 0]
    lengths = lengths[filled]
    span = filled.repeat_interleave(lengths)
    column = start[span] + _counting(lengths)
    x = column.double() + shift[span]
    weights = [slope[span] * x + rest[span] for slope, rest in zip(slopes, rests, strict=True)]
    inverse = ((weights[0] + weights[1] + weights[2]) / volume[span]).to(torch.float32)
    inside = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0) & (inverse > 0) & (inverse < 1.0 / NEAR)
    inside &= (column >= 0) & (column < width)
    if any(texture.shape[2] == 4 for texture in raster.mesh.textures):
        inside &= _is_solid(raster.mesh, face[span], weights)
    span, column, inverse = span[inside], column[inside], inverse[inside]
    # Positive floats are ordered as their bits are, so one maximum over whole numbers finds the nearest face, in any
    # order of the additions and so the same in every run.
    bits = inverse.view(torch.int32).to(torch.int64)
    raster.best.scatter_reduce_(0, place[span] + column, (bits << 32) | key[span], "amax")


def _is_solid(mesh: Mesh, face: Tensor, weights: list[Tensor]) -> Tensor:
    """Return whether a texture's alpha leaves samples [S] on faces [S] in place; `weights` are three of [S]."""
    solid = torch.ones(len(face), dtype=torch.bool)
    if mesh.uv is None or mesh.texture_ids is None:
        return solid
    total = weights[0] + weights[1] + weights[2]
    for k, texture in enumerate(mesh.textures):
        if texture.shape[2] == 4:
            rows = (mesh.texture_ids[face] == k).nonzero()[:, 0]
            shares = [(weight[rows] / total[rows]).to(torch.float32)[:, None] for weight in weights]
            uv = _mix(shares, mesh.uv[face[rows]]).nan_to_num(0.0, 0.0, 0.0)
            solid[rows] = _texel(texture[..., 3:], uv, mesh.wrap_of(k))[:, 0] >= CUT
    return solid


def _counting(counts: Tensor) -> Tensor:
    """Return 0, 1, ..., count - 1 for each count in turn."""
    ends = counts.cumsum(0)
    return torch.arange(int(ends[-1]) if len(ends) else 0) - (ends - counts).repeat_interleave(counts)


def _wrapped(index: Tensor, count: int, mode: str) -> Tensor:
    """Return the texels from 0 to `count` - 1 that stand at `index`, which may lie beyond them."""
    if mode == "clamp":
        return index.clamp(0, count - 1)
    if mode == "mirror":
        index = index % (2 * count)
        return torch.where(index < count, index, 2 * count - 1 - index)
    return index % count


def _texel(texture: Tensor, uv: Tensor, wrap: Wrap) -> Tensor:
    """Return the texture [h, w, C] at `uv` [n, 2], bilinear between the texels' centers: [n, C]."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1.0 - uv[:, 1]) * height - 0.5
    left, above = x.floor(), y.floor()
    u, v = (x - left)[:, None], (y - above)[:, None]
    column, row = left.to(torch.int64), above.to(torch.int64)
    x0, x1 = _wrapped(column, width, wrap[0]), _wrapped(column + 1, width, wrap[0])
    y0, y1 = _wrapped(row, height, wrap[1]), _wrapped(row + 1, height, wrap[1])
    upper = texture[y0, x0] * (1 - u) + texture[y0, x1] * u
    lower = texture[y1, x0] * (1 - u) + texture[y1, x1] * u
    return upper * (1 - v) + lower * v
