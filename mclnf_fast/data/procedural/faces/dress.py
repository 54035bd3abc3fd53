"""Draws neck, clothes and hair of a procedural portrait."""

from __future__ import annotations

import math

import numpy as np

from mclnf_fast.data.procedural.faces.draw import Portrait, bump, smooth

LONG = {"long": 1.15, "bob": 0.52}  # style: how far down the hair hangs, face units


def draw_neck(face: Portrait) -> None:
    """Paint the neck, in the shadow of the chin.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_neck(portrait)
    """
    p = face.person
    half = p.width * (0.66 + 0.5 * np.clip(face.v - 0.75, 0, None) ** 1.5)
    share = np.clip((half - np.abs(face.u)) / face.pixel + 0.5, 0, 1) * (face.v > 0.1)
    height = 0.28 * np.sqrt(np.clip(1 - (face.u / (half * 1.03)) ** 2, 0.0, None))
    under = 0.50 + 0.42 * smooth((face.v - p.chin * 0.97 + 0.25 * face.u**2) / 0.26)  # the chin's shadow
    face.paint_skin(share, height, under)


def _weave(face: Portrait, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cloth's color, [size, size, 3]."""
    p = face.person
    thread = 0.07 * face.fine(x * 60, y * 60)
    if p.pattern == "pinstripe":
        mix = 0.55 * smooth(1 - np.abs(np.mod(x * 13, 1.0) - 0.5) / 0.12)
    elif p.pattern == "plaid":
        bars = [(np.mod(c * 5.5, 1.0) < 0.4) * 0.34 + (np.abs(np.mod(c * 5.5, 1.0) - 0.7) < 0.05) * 0.5 for c in (x, y)]
        mix = np.clip(bars[0] + bars[1], 0, 1)
    elif p.pattern == "herringbone":
        fold = np.abs(np.mod(x * 7, 2.0) - 1)
        mix = 0.30 * smooth(0.5 + 1.5 * np.sin((y * 16 + fold * 1.6) * 2 * np.pi))
    elif p.pattern == "dots":
        row = np.floor(y * 9)
        dx, dy = np.mod(x * 9 + 0.5 * np.mod(row, 2.0), 1.0) - 0.5, np.mod(y * 9, 1.0) - 0.5
        mix = smooth((0.27 - np.hypot(dx, dy)) / 0.1)
    elif p.pattern == "knit":
        mix = 0.35 * smooth(0.5 + np.sin(y * 75 + 2.5 * np.abs(np.mod(x * 14, 1.0) - 0.5)))
    else:
        mix = np.zeros_like(x)
    pattern_color = p.second if not p.suit else 0.6 * p.cloth + 0.4
    return (p.cloth + mix[..., None] * (pattern_color - p.cloth)) * (1 + thread)[..., None]


def draw_clothes(face: Portrait) -> None:
    """Paint shoulders in a suit with shirt and tie, or in a patterned top with an open or round neck.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_clothes(portrait)
    """
    p, sheet = face.person, face.sheet
    turn = 0.08 * face.pose.yaw
    x = (sheet.x - 0.6 * face.pose.x) / face.pose.scale + turn * 0.3
    y = (sheet.y - face.pose.y - 0.06) / face.pose.scale
    w = np.abs(x)
    top = p.chin + 0.04 + 0.12 * smooth((w - 0.22) / 0.3) + 0.42 * np.clip(w - 0.42, 0, None) ** 1.6
    body = sheet.inside(top - y - 0.04 * smooth((0.30 - w) / 0.05))
    folds = face.cloudy.fractal(x * 3 + 2 * y, y * 2.2 + 4, 3)
    height = 0.35 * np.sqrt(np.clip(1.4 - x * x, 0.05, None)) + 0.22 * smooth((y - top) / 0.25) * 0.5 + 0.022 * folds
    diffuse, _ = face.lit(height, 1.0)
    cloth = _weave(face, x + 0.02 * folds, y + 0.02 * folds) * diffuse[..., None]
    neck = p.chin + (0.44 if p.suit else 0.30 if p.pattern != "knit" else 0.16)
    if p.suit:
        collar = 0.5 * (neck + 0.25 - y)
        sheet.paint(p.second * (0.55 + 0.45 * diffuse + 0.05 * folds)[..., None], body * (w < 0.5))
        fold = smooth((w - 0.04 - 0.85 * np.abs(y - p.chin - 0.12)) / 0.02)
        sheet.shade(1 - 0.16 * body * face.line(w - 0.03 - 0.8 * (p.chin + 0.30 - y), 0.012) * fold)
        if p.style not in ("long", "bob"):
            _tie(face, x, y, diffuse)
        lapel = sheet.inside(collar * 0.9 - w) * body
        sheet.paint(cloth, lapel)
        sheet.shade(1 - 0.45 * lapel * np.exp(-(((w - collar * 0.9) / 0.022) ** 2)))
        edge = face.line(w - 0.62 * collar - 0.21, 0.006) * lapel * (y < neck + 0.05)
        sheet.shade(1 - 0.5 * edge)
    else:
        open_ = np.sqrt(np.clip((neck - y) * (0.55 if p.pattern == "knit" else 0.22), 0, None))
        share = sheet.inside(np.where(y < neck, open_ * 0.9 - w, -1.0)) * body
        sheet.paint(cloth, share)
        sheet.shade(1 - 0.35 * share * np.exp(-(((w - open_ * 0.9) / 0.03) ** 2)) * (y < neck + 0.02))


def _tie(face: Portrait, x: np.ndarray, y: np.ndarray, diffuse: np.ndarray) -> None:
    """Paint a tie under the light `diffuse` [size, size]."""
    p = face.person
    knot = p.chin + 0.22
    half = np.where(y < knot + 0.12, 0.075 - 0.16 * np.clip(y - knot, 0, 0.12), 0.055 + 0.14 * (y - knot - 0.12))
    share = np.clip((half - np.abs(x)) / face.pixel + 0.5, 0, 1) * np.clip((y - knot) / face.pixel + 0.5, 0, 1)
    stripes = (
        smooth(0.5 + 2 * np.sin((x + y) * 48)) if p.seed % 2 else smooth(0.5 + 3 * np.sin(x * 90) * np.sin(y * 90) - 1)
    )
    color = p.tie * (0.75 + 0.4 * stripes)[..., None] * (0.6 + 0.5 * diffuse - 2.5 * x * x)[..., None]
    face.sheet.paint(color, share)
    face.sheet.shade(1 - 0.4 * share * face.line(y - knot - 0.12, 0.010))


def _locks(face: Portrait, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return hair lit along its strands, [size, size, 3]; `x` runs across the strands, `y` along them."""
    p = face.person
    curl = 4.0 if p.style == "curly" else 1.2
    bend = face.cloudy(x * 3, y * 2.5) * curl
    coarse, fine = face.strand(x * 13 + bend, y * 2.2), face.strand(x * 41 + bend + 9, y * 3.5 + 5)
    if p.style == "curly":
        coarse = face.strand(x * 12 + 2 * bend, y * 13 + 2 * bend)
    band = np.exp(-(((y - 0.42 - 0.03 * fine) / 0.16) ** 2))
    light = 0.62 + 0.24 * coarse + 0.20 * fine + (0.42 + 0.2 * coarse) * band * (0.6 + 0.4 * np.clip(fine, -1, 1))
    side = 1 + 0.28 * np.clip(face.u * face.pose.light[0] * 2, -1, 1)
    return p.hair * (light * side)[..., None] + (0.07 * np.clip(band * (coarse + 0.2), 0, 1))[..., None]


def _crown(face: Portrait) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of the hair: across and along strands that fall from the parting."""
    x, y = face.u - face.person.part * 0.8, face.v + 0.74
    r = np.hypot(x, y * 0.9)
    return np.arctan2(x, y + 0.15) * 1.25, r


def draw_back_hair(face: Portrait) -> None:
    """Paint the hair that hangs behind neck and shoulders.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_back_hair(portrait)
    """
    p = face.person
    if p.style not in LONG:
        return
    reach, (across, along) = LONG[p.style], _crown(face)
    ragged = 0.03 * face.strand(across * 16, along)
    half = p.width * (1.22 + 0.10 * np.sin(face.v * 4) - 1.2 * np.clip(0.1 - face.v, 0, None) ** 1.5) + ragged
    share = face.sheet.inside(np.abs(face.u) - half) * smooth((reach - face.v + 2 * ragged) / 0.1) * (face.v > -0.4)
    face.sheet.paint(_locks(face, across, along) * 0.6, share)


def draw_hair(face: Portrait) -> None:
    """Paint the hair over skull, brow and temples.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_hair(portrait)
    """
    p, sheet = face.person, face.sheet
    across, along = _crown(face)
    tuft = face.strand(across * 15, along * 3) * 0.6 + 0.4 * face.strand(across * 40, along * 5)
    volume = {"long": 1.16, "bob": 1.20, "curly": 1.22, "bald": 1.0}.get(p.style, 1.07)
    ragged = (0.07 if p.style == "curly" else 0.035) * tuft
    wide, high = np.abs(face.u) / (p.width * volume), np.abs(face.v + 0.06) / (0.64 * (0.4 + 0.6 * volume))
    cap = wide**2.3 + high**2.3 - 1 + ragged
    s = face.u / p.width
    drop = p.fringe * 0.16 * np.exp(-(((s + math.copysign(1.0, p.part) * 0.3) / 0.6) ** 2))
    parting = 0.07 * np.exp(-(((face.u - p.part) / 0.06) ** 2)) if p.style in ("side", "long", "bob") else 0.0
    temple = 0.5 * smooth((np.abs(s) - 0.55) / 0.42) - 0.05 * (p.fringe < 0.3) * bump(np.abs(s) - 0.55, 0 * s, 0.2, 1.0)
    line = p.hairline + drop - parting + temple + (0.012 + 0.03 * p.fringe) * tuft
    if p.style == "bald":
        line = -0.75 + 0.78 * smooth((np.abs(s) - 0.6) / 0.35) + 0.03 * tuft
    share = sheet.inside(cap) * smooth((line - face.v) / (0.035 if p.fringe > 0.3 else 0.06) + 0.5)
    if p.style in LONG:
        reach = LONG[p.style]
        inner = p.width * (0.90 + 0.06 * np.sin(3 * face.v + p.part * 9)) + 0.02 * tuft
        outer = p.width * (
            1.16 + 0.08 * np.sin(np.clip(face.v, 0, None) * 4) - 1.2 * np.clip(-0.1 - face.v, 0, None) ** 1.5
        )
        outer = outer + 0.03 * tuft
        lock = smooth((np.abs(face.u) - inner) / 0.03) * sheet.inside(np.abs(face.u) - outer)
        share = np.maximum(share, lock * smooth((reach - face.v + 0.06 * tuft) / 0.08))
    if p.style == "bald":
        share = share * (0.45 + 0.4 * np.clip(tuft, -1, 1))
    shadow = np.exp(-((np.clip(face.v - line, 0, None) / 0.05) ** 2)) * face.face * (share < 0.5)
    sheet.shade(1 - (0.05 if p.style == "bald" else 0.28) * shadow)
    rim = 1 - 0.25 * bump(np.clip(cap, None, 0), 0 * cap, 0.12, 1.0)
    sheet.paint(_locks(face, across, along) * rim[..., None], np.clip(share, 0, 1))
