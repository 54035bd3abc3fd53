"""Cameras, pinholes or with a lens that bends rays, and the rays of their pixels.

Axes are OpenGL's: x right, y up, and the camera looks along its own -z. Pixel centers lie at +0.5: the flat (row-major)
pixel index `p` has its center at `(p % width + 0.5, p // width + 0.5)`. World units are the scene's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.lenses.lens import Lens, cat_lenses
from mclnf_fast.render.lenses.table import direction_table, local_directions, pixel_centers

ROTATION_TOLERANCE = 1e-3  # poses come from text files and from bundle adjustment in float32
# Squares of distances stay finite in float32; beyond, boxes and samples along rays become infinite or NaN.
MOST_DISTANT = 1e12
INTRINSICS = ("fx", "fy", "cx", "cy")


def check_poses(c2w: Tensor, what: str = "c2w", tolerance: float = ROTATION_TOLERANCE) -> Tensor:
    """Return checked camera-to-world poses as float32 [V, 3, 4].

    Args:
        c2w: [V, 4, 4] or [V, 3, 4], any float dtype.
        what: the name that an error message uses.
        tolerance: largest allowed |R^T R - I|.

    Raises:
        InputError: wrong shape, not finite, too far away, last row not (0, 0, 0, 1), not a rotation (or a reflection).

    >>> check_poses(torch.eye(4)[None]).shape
    torch.Size([1, 3, 4])
    """
    if not isinstance(c2w, Tensor) or c2w.ndim != 3 or tuple(c2w.shape[1:]) not in ((4, 4), (3, 4)):
        shape = tuple(c2w.shape) if isinstance(c2w, Tensor) else type(c2w).__name__
        raise InputError(f"{what}: must be [V, 4, 4] or [V, 3, 4] poses, was {shape}")
    pose = c2w.detach().to(torch.float64)
    finite = torch.isfinite(pose).flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"{what}: every pose must be finite, pose {int((~finite).nonzero()[0])} holds NaN or infinity")
    far = pose[:, :3, 3].abs().amax(1) > MOST_DISTANT if len(pose) else finite[:0]
    if bool(far.any()):
        bad = int(far.nonzero()[0])
        place = ", ".join(f"{value:g}" for value in pose[bad, :3, 3].tolist())
        raise InputError(f"{what}: cameras must lie within {MOST_DISTANT:g} of the origin, pose {bad} was at {place}")
    if pose.shape[1] == 4 and len(pose):
        last = (pose[:, 3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(1)
        if float(last.max()) > tolerance:
            bad = int(last.argmax())
            raise InputError(f"{what}: the last row must be 0 0 0 1, in pose {bad} it was {pose[bad, 3].tolist()}")
    rotation = pose[:, :3, :3]
    if len(pose):
        eye = torch.eye(3, dtype=pose.dtype, device=pose.device)
        error = (rotation.transpose(1, 2) @ rotation - eye).abs().amax((1, 2))
        if float(error.max()) > tolerance:
            bad = int(error.argmax())
            raise InputError(
                f"{what}: the 3x3 part must be a rotation (|R^T R - I| <= {tolerance:g}), "
                f"in pose {bad} it was off by {float(error[bad]):.3g}"
            )
        determinant = torch.linalg.det(rotation)
        if float(determinant.min()) < 0:
            bad = int(determinant.argmin())
            raise InputError(
                f"{what}: the 3x3 part must be a rotation (determinant 1), pose {bad} is a reflection (-1)"
            )
    return pose[:, :3].to(torch.float32).contiguous()


@dataclass(frozen=True)
class Cameras:
    """V cameras of one image size.

    A pixel that a lens shows nothing at (beyond its fold, or behind a fisheye) has no ray: its direction is NaN.
    `lenses.views` returns which pixels have one, and masks the others.

    Attributes:
        c2w: [V, 3, 4] float32 camera-to-world; [V, 4, 4] is taken too.
        fx, fy, cx, cy: [V] float32, pixels; a number stands for the same value in every view.
        width, height: image size in pixels.
        lens: the distortion of V cameras, or of one, which stands for all; None: pinholes.

    Raises:
        InputError: see `check_poses`; focal lengths not positive; intrinsics or lenses of another length; an empty
            image size.

    >>> position, target = torch.tensor([[0.0, -4.0, 1.0]]), torch.zeros(1, 3)
    >>> cameras = Cameras(look_at(position, target), fx=40.0, fy=40.0, cx=16.0, cy=12.0, width=32, height=24)
    >>> origins, directions = cameras.view_rays(0)
    >>> directions.shape
    torch.Size([768, 3])
    """

    c2w: Tensor
    fx: Tensor
    fy: Tensor
    cx: Tensor
    cy: Tensor
    width: int
    height: int
    lens: Lens | None = None
    _table: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pose = check_poses(self.c2w)
        object.__setattr__(self, "c2w", pose)
        for name in ("width", "height"):
            size = getattr(self, name)
            if isinstance(size, bool) or int(size) != size or size < 1:
                raise InputError(f"{name}: must be a whole number of pixels >= 1, was {size!r}")
            object.__setattr__(self, name, int(size))
        for name in INTRINSICS:
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32, device=pose.device)
            if value.ndim == 0:
                value = value.expand(len(pose)).contiguous()
            if tuple(value.shape) != (len(pose),):
                raise InputError(f"{name}: must be a number or [{len(pose)}], one per view, was {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{name}: must be finite, was {value.tolist()}")
            if name in ("fx", "fy") and len(value) and float(value.min()) <= 0:
                raise InputError(f"{name}: must be positive (pixels), was {float(value.min())}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "lens", self._own_lens())

    def _own_lens(self) -> Lens | None:
        """Return the lens with a row per view, on the poses' device; None if it bends nothing."""
        lens = self.lens
        if lens is None or (isinstance(lens, Lens) and lens.is_pinhole):
            return None
        if not isinstance(lens, Lens) or len(lens) not in (1, len(self.c2w)):
            was = len(lens) if isinstance(lens, Lens) else type(lens).__name__
            raise InputError(f"lens: must be a Lens of 1 or {len(self.c2w)} cameras, was {was}")
        if len(lens) != len(self.c2w):
            lens = lens.pick(torch.zeros(len(self.c2w), dtype=torch.int64))
        return lens.to(self.c2w.device)

    def __len__(self) -> int:
        return int(self.c2w.shape[0])

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        """Return the cameras of a slice, a LongTensor [K] or a bool mask [V]."""
        if not isinstance(index, slice | Tensor):
            raise TypeError(f"Cameras are indexed with a slice or a LongTensor, was {type(index).__name__}")
        return replace(
            self,
            c2w=self.c2w[index],
            fx=self.fx[index],
            fy=self.fy[index],
            cx=self.cx[index],
            cy=self.cy[index],
            lens=None if self.lens is None else self.lens.pick(index),
        )

    @property
    def centers(self) -> Tensor:
        """Positions of the cameras, [V, 3]."""
        return self.c2w[:, :, 3]

    def to(self, device: torch.device | str) -> Cameras:
        """Return the same cameras with their tensors on `device`."""
        return replace(
            self,
            c2w=self.c2w.to(device),
            fx=self.fx.to(device),
            fy=self.fy.to(device),
            cx=self.cx.to(device),
            cy=self.cy.to(device),
            lens=None if self.lens is None else self.lens.to(device),
        )

    def scaled(self, factor: float) -> Cameras:
        """Return the same cameras at `factor` times the resolution (0.5 = half), rounded to whole pixels."""
        if not factor > 0:
            raise InputError(f"factor: must be > 0, was {factor!r}")
        return self.resized(max(1, round(self.width * factor)), max(1, round(self.height * factor)))

    def resized(self, width: int, height: int) -> Cameras:
        """Return the same cameras for images of `width` x `height` pixels of the same field of view."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            fx=self.fx * sx,
            cx=self.cx * sx,
            fy=self.fy * sy,
            cy=self.cy * sy,
            width=width,
            height=height,
        )

    def in_units(self, scale: float) -> Cameras:
        """Return the same cameras in other units of length: positions times `scale`."""
        if not 0 < scale < float("inf"):
            raise InputError(f"scale: must be above 0 and finite, was {scale!r}")
        return replace(self, c2w=torch.cat((self.c2w[:, :, :3], scale * self.c2w[:, :, 3:]), 2))

    def rays_at(self, view_ids: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions [R, 3] of rays through image positions.

        Args:
            view_ids: int64 [R], the camera of each ray.
            x, y: [R], pixels from the left and from the top of the image.

        Directions are NaN where a lens shows nothing.
        """
        pose = self.c2w.index_select(0, view_ids)
        if self.lens is not None:
            intrinsics = self._intrinsics().index_select(0, view_ids)
            return pose[:, :, 3], _turned(pose, local_directions(self.lens.pick(view_ids), intrinsics, x, y))
        fx, fy, cx, cy = (t.index_select(0, view_ids) for t in (self.fx, self.fy, self.cx, self.cy))
        local = torch.stack(
            [
                (x - cx) / fx,
                (cy - y) / fy,
                torch.full_like(x, -1.0),
            ],
            -1,
        )
        return pose[:, :, 3], _turned(pose, local)

    def rays(self, view_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions [R, 3] of rays through pixel centers, float32, world axes.

        Args:
            view_ids: int64 [R], the camera of each ray. Not checked: that would wait for the device in every step.
            pixels: int64 [R], flat row-major pixel index `row * width + column`.

        Directions are NaN where a lens shows nothing.

        Raises:
            InputError: the shapes are not [R].
        """
        if view_ids.ndim != 1 or pixels.shape != view_ids.shape:
            raise InputError(
                f"view_ids, pixels: must both be [R], were {tuple(view_ids.shape)} and {tuple(pixels.shape)}"
            )
        if self.lens is not None and self._table is None:
            table = direction_table(self.lens, self._intrinsics(), self.width, self.height)
            object.__setattr__(self, "_table", table)
        if self._table is None:
            return self.rays_at(view_ids, *pixel_centers(pixels, self.width))
        local, view_lens = self._table
        pose = self.c2w.index_select(0, view_ids)
        row = view_lens.index_select(0, view_ids) * (self.width * self.height) + pixels
        return pose[:, :, 3], _turned(pose, local.index_select(0, row))

    def _intrinsics(self) -> Tensor:
        """Return fx, fy, cx, cy, float64 [V, 4]."""
        return torch.stack([getattr(self, name) for name in INTRINSICS], 1).double()

    def view_rays(self, i: int) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions [H W, 3] of all rays of view `i`, row by row.

        Raises IndexError if there is no such view.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"view must be in [{-len(self)}, {len(self)}), was {i}")
        pixels = torch.arange(self.width * self.height, device=self.c2w.device)
        return self.rays(torch.full_like(pixels, i % len(self)), pixels)

    def corner_rays(self) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions [V, 4, 3] of rays through the image's four outer corners.

        Every ray of a pinhole's view is a positive combination of its corner rays, so a convex region that contains the
        corner rays' crossings of a plane contains those of the whole view. Behind a lens that is not so, and its
        corners may have no ray: `lenses.views.border_rays`.
        """
        if self.lens is not None:
            raise InputError("cameras: must be pinholes for corner_rays, have lenses that bend rays")
        count = len(self)
        ids = torch.arange(count, device=self.c2w.device).repeat_interleave(4)
        x = ids.new_tensor([0, 1, 1, 0]).repeat(count).to(torch.float32) * self.width
        y = ids.new_tensor([0, 0, 1, 1]).repeat(count).to(torch.float32) * self.height
        origins, directions = self.rays_at(ids, x, y)
        return origins.reshape(count, 4, 3), directions.reshape(count, 4, 3)


def cat_cameras(parts: list[Cameras]) -> Cameras:
    """Return several cameras of one image size as one `Cameras`, in order.

    Raises:
        InputError: there are none, or they have several image sizes.

    >>> cameras = Cameras(look_at(4 * torch.eye(3), torch.zeros(3, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> len(cat_cameras([cameras, cameras[:1]]))
    4
    """
    if not parts:
        raise InputError("cameras: at least one part is needed to join, was none")
    sizes = {(cameras.width, cameras.height) for cameras in parts}
    if len(sizes) > 1:
        raise InputError(f"cameras: all parts must have one image size, were {sorted(sizes)}")

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(cameras, name) for cameras in parts])

    lens = cat_lenses([cameras.lens for cameras in parts], [len(cameras) for cameras in parts])
    fx, fy, cx, cy = (joined(name) for name in INTRINSICS)
    return replace(parts[0], c2w=joined("c2w"), fx=fx, fy=fy, cx=cx, cy=cy, lens=lens)


def _turned(pose: Tensor, local: Tensor) -> Tensor:
    """Return directions [R, 3] in the cameras' own axes as unit directions of the world; pose: [R, 3, 4]."""
    return torch.nn.functional.normalize((pose[:, :, :3] * local[:, None, :]).sum(-1), dim=-1)


def cameras_between(a: Cameras, b: Cameras, weights: Tensor) -> Cameras:
    """Return K cameras on the way from camera `a` (weight 0) to camera `b` (weight 1).

    Positions and intrinsics lie on a line; a rotation is the one nearest to the weighted mean of both matrices; the
    lens is that of the nearer camera.

    Args:
        a, b: one camera each, of one image size.
        weights: [K].

    Raises:
        InputError: not one camera each, other sizes, or rotations half a turn apart, which have no mean.

    >>> cameras = Cameras(look_at(4 * torch.eye(3), torch.zeros(3, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)
    >>> cameras_between(cameras[:1], cameras[1:2], torch.tensor([0.0, 0.5])).centers.tolist()
    [[4.0, 0.0, 0.0], [2.0, 2.0, 0.0]]
    """
    if len(a) != 1 or len(b) != 1 or (a.width, a.height) != (b.width, b.height):
        raise InputError(f"a, b: must be one camera each, of one image size, were {len(a)} and {len(b)}")
    ends = torch.cat((a.c2w, b.c2w)).double()
    w = weights.to(ends)[:, None, None]
    mixed = (1 - w) * ends[:1] + w * ends[1:]
    left, size, right = torch.linalg.svd(mixed[:, :, :3])
    if len(w) and not (float(size.min()) > 1e-3 and float(torch.linalg.det(left @ right).min()) > 0):
        raise InputError("a, b: must not be turned by half a turn against each other, were")
    share = w[:, 0, 0].to(torch.float32)
    intrinsics = {name: (1 - share) * getattr(a, name) + share * getattr(b, name) for name in INTRINSICS}
    lens = cat_lenses([a.lens, b.lens], [1, 1])
    lens = None if lens is None else lens.pick((share > 0.5).long())
    return replace(a, c2w=torch.cat((left @ right, mixed[:, :, 3:]), 2), lens=lens, **intrinsics)


def look_at(position: Tensor, target: Tensor, roll: Tensor | None = None) -> Tensor:
    """Return camera-to-world poses [V, 3, 4] of cameras at `position` that look at `target`, with the world's z up.

    Args:
        position, target: [V, 3].
        roll: [V], radians, turns each camera about its own axis; None: upright.

    A camera that looks straight down has world +y at the top of its picture.

    >>> look_at(torch.tensor([[0.0, -4.0, 0.0]]), torch.zeros(1, 3))[0, :, 2].tolist()
    [0.0, -1.0, 0.0]
    """
    back = torch.nn.functional.normalize(position - target, dim=-1)
    up = torch.zeros_like(back)
    vertical = back[:, 2].abs() > 0.99999
    up[:, 2] = (~vertical).to(up.dtype)
    up[:, 1] = vertical.to(up.dtype)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, back), dim=-1)
    up = torch.linalg.cross(back, right)
    if roll is not None:
        cosine, sine = torch.cos(roll)[:, None], torch.sin(roll)[:, None]
        right, up = cosine * right + sine * up, cosine * up - sine * right
    return torch.stack([right, up, back, position], -1)
