"""Draws a portrait from a `Person` and a `Pose`: outlines as implicit functions, the face as a lit height field."""

from __future__ import annotations

import copy
import math
from functools import cached_property

import numpy as np

from mclnf_fast.data.graphics.noise import Noise
from mclnf_fast.data.procedural.faces.person import Person, Pose

WHITE = np.array([0.93, 0.92, 0.90], np.float32)


def smooth(x: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, and a smooth step between.

    >>> smooth(np.array([-1.0, 0.5, 2.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def bump(x: np.ndarray, y: np.ndarray, wide: float, high: float) -> np.ndarray:
    """Return a Gaussian hill of height 1 with these half widths.

    >>> float(bump(np.array(0.0), np.array(0.0), 0.1, 0.2))
    1.0
    """
    return np.exp(-((x / wide) ** 2) - (y / high) ** 2)


class PaintSheet:
    """The picture that is painted on, float32 [size, size, 3], with its coordinates: x right, y down, -1 to 1.

    >>> sheet = PaintSheet(4)
    >>> sheet.paint(np.ones(3), sheet.inside(sheet.x))
    >>> sheet.rgb[0, :, 0].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, size: int) -> None:
        self.step = 2.0 / size
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * self.step) - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.rgb = np.zeros((size, size, 3), np.float32)

    def inside(self, f: np.ndarray) -> np.ndarray:
        """Return the share of each pixel with `f` < 0, from its value and gradient at the pixel's center."""
        down, right = np.gradient(f)
        return np.clip(0.5 - f / np.maximum(np.hypot(down, right), 1e-6), 0.0, 1.0)

    def paint(self, color: np.ndarray, share: np.ndarray) -> None:
        """Lay `color` ([3] or [size, size, 3]) over the picture, `share` [size, size] of it."""
        self.rgb += share[..., None] * (color - self.rgb)

    def shade(self, factor: np.ndarray) -> None:
        """Multiply the picture by `factor` [size, size]."""
        self.rgb *= factor[..., None]


class Portrait:
    """One picture in the making: the face's own coordinates, and the quantities that several strokes share.

    Attributes:
        u, v: [size, size], coordinates of the face, upright: (0, 0) between the height of the eyes and the nose, the
            chin at v = person.chin.
        a, b: the same, carried along by the turn of the head.
        pixel: size of a pixel in these units.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> Portrait(draw_person(0, 0), draw_pose(0, 0), 16).face.shape
    (16, 16)
    """

    def __init__(self, person: Person, pose: Pose, size: int) -> None:
        self.person, self.pose, self.sheet = person, pose, PaintSheet(size)
        rng = np.random.default_rng(person.seed)
        self.cloudy, self.fine, self.strand = (Noise(rng) for _ in range(3))
        c, s = math.cos(pose.roll), math.sin(pose.roll)
        x, y = self.sheet.x - pose.x, self.sheet.y - pose.y - 0.06
        # Straight face coordinates: (0, 0) between the eyes' height and the nose, the chin at v = person.chin.
        self.u = (c * x + s * y) / pose.scale
        self.v = (-s * x + c * y) / pose.scale
        self.pixel = self.sheet.step / pose.scale
        # The same, carried along by the turn of the head: the middle of the face shifts, its outline stays.
        dome = np.maximum(0.0, 1 - (self.u / person.width) ** 2 - (self.v / 0.75) ** 2)
        self.a = self.u - 0.17 * pose.yaw * np.sqrt(dome)
        self.b = self.v - 0.10 * pose.pitch * np.sqrt(dome)

    def near(self, u: float, v: float, wide: float, high: float) -> Portrait:
        """Return the portrait cut to the box about (`u`, `v`) of the turned face; strokes painted there show here."""
        return self.cut((np.abs(self.a - u) < wide) & (np.abs(self.b - v) < high))

    def cut(self, box: np.ndarray) -> Portrait:
        """Return the portrait cut to the smallest window that holds `box` (bool [size, size]); it shares the pixels."""
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        if len(rows) < 2 or len(columns) < 2:  # gradients need two of each
            rows = columns = np.arange(2)
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        portrait = copy.copy(self)
        portrait.__dict__.update(
            {name: value[window] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        )
        portrait.sheet = copy.copy(self.sheet)
        for name in ("x", "y", "rgb"):
            setattr(portrait.sheet, name, getattr(self.sheet, name)[window])
        return portrait

    def line(self, distance: np.ndarray, half: np.ndarray | float) -> np.ndarray:
        """Return the share of each pixel within `half` of a curve that is `distance` away (both in face units)."""
        return np.clip((half - np.abs(distance)) / self.pixel + 0.5, 0.0, 1.0)

    @cached_property
    def outline(self) -> np.ndarray:
        """Implicit function of the face [size, size]: < 0 inside."""
        p = self.person
        u = np.abs(self.u) / p.width
        low = np.clip(self.v, 0, None) / p.chin
        cheeks = 1 + 0.05 * p.age * np.exp(-(((self.v - 0.35) / 0.15) ** 2))
        lower = (u / cheeks) ** 2.0 + low**p.jaw
        upper = u**2.3 + (np.clip(-self.v, 0, None) / 0.66) ** 2.3
        return np.where(self.v > 0, lower, upper) - 1

    @cached_property
    def face(self) -> np.ndarray:
        """Share of each pixel that the face covers, [size, size]."""
        return self.sheet.inside(self.outline)

    @cached_property
    def relief(self) -> np.ndarray:
        """Height of the face over the picture's plane, [size, size], in face units."""
        p, a, b = self.person, self.a, self.b
        z = 0.46 * np.sqrt(np.maximum(0.0, 1 - (self.u / (p.width * 1.04)) ** 2 - (self.v / 0.74) ** 2))
        tip = p.nose_length
        bridge = np.exp(-((a / (0.035 + 0.05 * smooth((b + 0.1) / 0.35))) ** 2))
        z += (
            (0.035 + 0.10 * smooth((b + 0.12) / (tip + 0.10)))
            * bridge
            * smooth((tip + 0.05 - b) / 0.07)
            * smooth((b + 0.22) / 0.12)
        )
        z += 0.035 * bump(a, b - tip + 0.02, 0.055, 0.05)
        for side in (-1, 1):
            z += 0.030 * bump(a - side * p.nose_width * 0.75, b - tip - 0.005, 0.04, 0.035)
            z -= 0.050 * bump(a - side * p.eye_gap * 0.95, b + 0.05, 0.11, 0.07)
            z += 0.022 * bump(a - side * p.eye_gap, b + 0.055, 0.075, 0.04)
            z += 0.028 * bump(a - side * (0.25 + 0.02 * self.pose.smile), b - 0.16, 0.13, 0.10)
            fold = a - side * (0.10 + 0.55 * (b - tip + 0.05))
            z -= (
                (0.006 + 0.014 * p.age)
                * np.exp(-((fold / 0.025) ** 2))
                * smooth((b - tip + 0.06) / 0.05)
                * smooth((tip + 0.2 - b) / 0.08)
            )
        z += 0.016 * bump(a, b + 0.15, 0.3, 0.05)  # brows
        z += 0.040 * bump(a, b - p.chin + 0.09, 0.10, 0.07)
        z -= 0.014 * bump(a, b - self.mouth_v - 0.085, 0.09, 0.025)
        z += 0.014 * bump(a, b - self.mouth_v, p.mouth_width, 0.05)
        wrinkle = np.sin(b * 95 + 2.0 * self.cloudy(a * 5, b * 4)) * bump(a, b + 0.33, 0.24, 0.09)
        return z + 0.0016 * p.age * wrinkle

    @cached_property
    def mouth_v(self) -> float:
        """Position v of the mouth."""
        return 0.5 * (self.person.nose_length + self.person.chin) - 0.045

    def lit(self, height: np.ndarray, gloss: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the light on a surface of a height [size, size]: (diffuse, highlight), both [size, size]."""
        down, right = np.gradient(height / self.pixel)
        norm = 1.0 / np.sqrt(1 + down * down + right * right)
        lx, ly = self.pose.light
        lz = 0.75
        length = math.sqrt(lx * lx + ly * ly + lz * lz)
        facing = (-right * lx - down * ly + lz) * norm / length
        diffuse = self.pose.ambient + (1 - self.pose.ambient) * 1.15 * np.clip(0.12 + 0.88 * facing, 0, None)
        half = (-right * lx - down * ly + lz + length) * norm / math.sqrt(lx * lx + ly * ly + (lz + length) ** 2)
        return diffuse, np.clip(half, 0, 1) ** gloss

    def backdrop(self) -> None:
        """Paint a studio's mottled cloth, lit from one side."""
        p, pose, sheet = self.person, self.pose, self.sheet
        x, y = sheet.x + pose.pan[0], sheet.y + pose.pan[1]
        mottle = self.cloudy.fractal(x * 2.2 + 5, y * 2.2 + 9, 4)
        glow = np.exp(-(((x - 0.5 * pose.light[0]) / 1.3) ** 2) - ((y + 0.1) / 1.4) ** 2)
        weave = 0.012 * self.fine(x * 45, y * 45)
        sheet.rgb[:] = p.backdrop * (0.68 + 0.45 * glow + 0.13 * mottle + weave)[..., None]
        sheet.rgb += (0.02 * mottle)[..., None] * np.array([1.0, 0.2, -0.8], np.float32)

    def skin(self, tone: np.ndarray | float = 1.0) -> np.ndarray:
        """Return the color of bare skin before light, [size, size, 3]."""
        p, a, b = self.person, self.a, self.b
        pores = self.fine.fractal(a * 42, b * 42, 2)
        blotch = self.cloudy.fractal(a * 7 + 3, b * 7, 3)
        red = (
            0.5
            * (bump(np.abs(a) - 0.26, b - 0.17, 0.12, 0.09) * (0.6 + p.makeup) + bump(a, b - p.nose_length, 0.08, 0.06))
            + 0.25 * blotch
        )
        color = p.skin * (1 + 0.045 * pores + 0.03 * blotch + (np.asarray(tone) - 1))[..., None]
        color = color * (1 + red[..., None] * np.array([0.05, -0.11, -0.10], np.float32))
        spots = smooth((self.fine(40 * a + 23 * b + 0.8 * pores, 37 * b - 21 * a) - 0.5) * 5) * bump(
            np.abs(a) - 0.12, b - 0.12, 0.22, 0.14
        )
        return color * (1 - 0.16 * (p.freckles + 0.2 * p.age) * spots)[..., None]

    def paint_skin(self, share: np.ndarray, height: np.ndarray, tone: np.ndarray | float = 1.0) -> None:
        """Paint skin under the light; the red part of it reaches further into the shade."""
        diffuse, shine = self.lit(height, 28.0)
        light = np.stack([diffuse**0.85, diffuse**1.05, diffuse**1.12], -1)
        # A wet film: skin never reaches pure white.
        self.sheet.paint(self.skin(tone) * light + (0.17 * shine)[..., None], share)

    def head(self) -> None:
        """Paint the bare face: relief, light, the shade of hair and brow, an unshaved chin."""
        p = self.person
        occluded = 1 - 0.18 * smooth((0.30 + self.outline) / 0.30)
        self.paint_skin(self.face, self.relief, occluded)
        if p.beard:
            a, b = self.a, self.b
            area = smooth((b - 0.12 - 0.5 * np.clip(0.30 - np.abs(a), 0, None)) / 0.14) * smooth(
                (np.abs(a) + b - 0.36) / 0.1
            )
            area = np.maximum(area, bump(a, b - self.mouth_v + 0.075, 0.15, 0.028))
            area *= 1 - smooth(1.6 - (a / 0.075) ** 2 - ((b - self.mouth_v - 0.02) / 0.055) ** 2)
            curls = 0.5 + 0.5 * self.strand(a * 55 + 3 * self.cloudy(a * 9, b * 9), b * 26)
            full = p.beard == 1.0
            share = area * self.face * (0.95 if full else p.beard * (0.5 + 0.5 * curls))
            dark = p.hair * (0.55 + (0.75 if full else 0.2) * curls)[..., None]
            self.sheet.paint(dark if full else 0.6 * dark + 0.25 * p.skin, share)
