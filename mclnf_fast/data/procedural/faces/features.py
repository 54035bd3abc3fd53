"""Draws eyes, brows, nostrils, mouth and glasses of a procedural portrait."""

from __future__ import annotations

import numpy as np

from mclnf_fast.data.procedural.faces.draw import WHITE, Portrait, bump, smooth

DARK = np.array([0.10, 0.06, 0.05], np.float32)
MOUTH = np.array([0.20, 0.05, 0.05], np.float32)


def draw_features(face: Portrait) -> None:
    """Paint all features of the face, in the order in which they overlap.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_features(portrait)
    """
    p = face.person
    _nose(face.near(0.0, p.nose_length, 0.3, 0.2))
    _mouth(face.near(0.0, face.mouth_v, 0.4, 0.25))
    for side in (-1, 1):
        eye = face.near(side * p.eye_gap, -0.05, 0.24, 0.26)
        _eye(eye, side)
        _brow(eye, side)
    if p.glasses:
        _glasses(face.near(0.0, -0.03, 0.75, 0.25))


def draw_ears(portrait: Portrait) -> None:
    """Paint both ears, behind the face's outline.

    >>> from mclnf_fast.data.procedural.faces.person import draw_person, draw_pose
    >>> portrait = Portrait(draw_person(0, 0), draw_pose(0, 0), 16)
    >>> draw_ears(portrait)
    """
    p = portrait.person
    for side in (-1, 1):
        middle = side * p.width * (1.02 + 0.06 * side * portrait.pose.yaw)
        face = portrait.cut((np.abs(portrait.u - middle) < 0.13) & (np.abs(portrait.v - 0.05) < 0.2))
        x = side * (face.u - middle) + 0.09 * (face.v - 0.08)
        f = (x / 0.075) ** 2 + ((face.v - 0.05) / 0.145) ** 2 - 1
        inner = (x / 0.045) ** 2 + ((face.v - 0.04) / 0.095) ** 2
        face.paint_skin(face.sheet.inside(f), -0.025 * np.clip(f, -1, 0), 0.90 - 0.22 * smooth(1.4 - inner))


def _nose(face: Portrait) -> None:
    """Paint nostrils, the wings of the nose and the shadow below."""
    p, a, b = face.person, face.a, face.b
    under = bump(a, b - p.nose_length - 0.055, p.nose_width * 1.2, 0.03)
    face.sheet.shade(1 - 0.20 * under * face.face)
    for side in (-1, 1):
        hole = bump(a - side * p.nose_width * 0.48, b - p.nose_length - 0.028 + 0.1 * np.abs(a), 0.026, 0.013)
        face.sheet.paint(DARK * 1.3, 0.8 * smooth(hole * 1.3 - 0.15))
        wing = np.hypot((a - side * p.nose_width * 0.8) / 0.045, (b - p.nose_length + 0.005) / 0.05)
        crease = np.exp(-(((wing - 1) / 0.22) ** 2)) * smooth((side * a - p.nose_width * 0.8) / 0.03)
        face.sheet.shade(1 - 0.22 * crease)


def _mouth(face: Portrait) -> None:
    """Paint lips, an open mouth with teeth, and the corners."""
    p, pose, sheet = face.person, face.pose, face.sheet
    half = p.mouth_width * (1 + 0.16 * pose.smile - 0.12 * pose.open)
    s = np.clip(face.a / half, -1.25, 1.25)
    arch = np.clip(1 - s * s, 0, 1)
    # Corners rise with the smile; v grows downwards.
    curve = face.b - face.mouth_v - 0.055 * pose.smile * (0.6 - s * s) - 0.008
    gap = (0.012 + 0.055 * pose.open + 0.014 * pose.smile * (pose.open > 0)) * arch**0.7
    bow = 1 - 0.25 * np.exp(-((s / 0.16) ** 2)) + 0.1 * np.exp(-(((np.abs(s) - 0.25) / 0.2) ** 2))
    top, bottom = -gap - p.lip * 0.8 * arch**0.8 * bow, gap * 1.1 + p.lip * 1.25 * arch**0.75
    within = (np.abs(s) < 1.0).astype(np.float32)
    lips = np.clip(np.minimum(curve - top, bottom - curve) / face.pixel + 0.5, 0, 1) * within
    tint = p.skin * np.array([0.86, 0.58, 0.56], np.float32)
    tint = (1 - p.lipstick) * tint + p.lipstick * (0.5 * tint + 0.5 * np.array([0.66, 0.16, 0.19], np.float32))
    ridges = face.fine(face.a * 110, face.b * 18)
    light = 0.86 + 0.20 * smooth((curve - gap) / 0.02) + 0.08 * ridges
    light -= 0.30 * smooth((curve - bottom + 0.014) / 0.016)
    sheet.paint(tint * light[..., None], 0.92 * lips)
    gleam = bump(s, curve - gap - 0.5 * p.lip, 0.35, 0.010) * lips * smooth(ridges * 0.8 + 0.5)
    sheet.paint(WHITE, 0.30 * gleam)
    sheet.shade(1 - 0.22 * bump(s, curve - bottom - 0.016, 0.55, 0.016))
    inside = np.clip((gap - np.abs(curve)) / face.pixel + 0.5, 0, 1) * within * (0.85 if pose.open else 0.65)
    sheet.paint(MOUTH * (1 if pose.open else 1.6), inside)
    if pose.open > 0.05:
        row = np.clip((curve + gap) / 0.045, 0, 1)
        tooth = np.abs(np.mod(face.a / 0.036 + 0.5, 1.0) - 0.5) * 2  # 1 between two teeth
        enamel = (1 - 0.20 * smooth((tooth - 0.72) / 0.28)) * (0.95 - 0.35 * s * s)
        teeth = inside * smooth((1 - row) / 0.25) * smooth((0.92 - np.abs(s)) / 0.15)
        sheet.paint(WHITE * enamel[..., None], teeth)
    for side in (-1, 1):
        sheet.shade(1 - 0.30 * bump(s - side * 1.04, curve, 0.09, 0.018))


def _eye(face: Portrait, side: int) -> None:
    """Paint one eye; `side` is -1 for the left of the picture and 1 for the right."""
    p, pose, sheet = face.person, face.pose, face.sheet
    wide = p.eye_size
    s = (face.a - side * p.eye_gap) / wide
    t = (face.b + 0.05 - 0.012 * side * s) / wide
    arch = np.clip(1 - s * s, 0, None)
    lid = (0.52 - 0.05 * pose.smile) * (1 - pose.blink) * arch**0.75 + 0.02
    upper, lower = -lid, (0.30 - 0.08 * pose.smile) * (1 - 0.5 * pose.blink) * arch
    opening = np.clip(np.minimum(t - upper, lower - t) * wide / face.pixel + 0.5, 0, 1) * (np.abs(s) < 1)
    crease = np.exp(-(((t - upper + 0.24) / 0.10) ** 2)) * smooth((1.15 - np.abs(s)) / 0.4)
    sheet.shade(1 - 0.25 * crease)
    sheet.paint(
        p.skin * np.array([0.62, 0.42, 0.44], np.float32), 0.35 * p.makeup * bump(s, t - upper + 0.12, 0.9, 0.14)
    )
    bag = np.exp(-(((t - lower - 0.30) / 0.14) ** 2)) * smooth((1.1 - np.abs(s)) / 0.5)
    sheet.shade(1 - (0.06 + 0.16 * p.age) * bag)
    rays = np.sin(s * 7 + 9 * t) * bump(side * s - 1.55, t + 0.05, 0.3, 0.35)
    sheet.shade(1 - 0.14 * p.age * np.clip(rays, 0, None))  # lines at the outer corner
    ball = WHITE * (0.90 - 0.22 * s * s - 0.35 * np.clip(1 - (t - upper) / 0.28, 0, 1))[..., None]
    sheet.paint(ball * np.clip(pose.ambient + 0.55, 0, 1), opening)
    gaze = 0.35 * pose.gaze - 0.30 * pose.yaw * 0.4
    r = np.hypot(s - gaze, t + 0.08) / 0.43
    spokes = face.strand(np.arctan2(t + 0.08, s - gaze) * 5 + 20, r * 2.0)
    iris = p.iris * (0.75 + 0.55 * np.clip(r, 0, 1) + 0.35 * spokes - 0.9 * smooth((r - 0.78) / 0.2))[..., None]
    edge = wide * 0.43 / face.pixel
    sheet.paint(np.clip(iris, 0.03, 1), opening * np.clip((1 - r) * edge + 0.5, 0, 1))
    sheet.paint(DARK * 0.4, opening * np.clip((0.42 - r) * edge + 0.5, 0, 1))
    lx, ly = pose.light
    for size, x, y in ((0.16, gaze + 0.22 * lx, -0.08 + 0.26 * ly), (0.07, gaze - 0.15 * lx, 0.08)):
        sheet.paint(WHITE * 1.06, opening * np.clip((size - np.hypot(s - x, t - y)) * wide / face.pixel + 0.5, 0, 1))
    lash = face.line((t - upper) * wide, wide * (0.045 + 0.055 * p.makeup) * (0.4 + 0.6 * arch)) * (np.abs(s) < 1.06)
    sheet.paint(DARK, (0.75 + 0.2 * p.makeup) * lash)
    sheet.paint(DARK * 2.5, 0.35 * face.line((t - lower) * wide, wide * 0.03) * (np.abs(s) < 0.95))


def _brow(face: Portrait, side: int) -> None:
    """Paint one brow, hair by hair."""
    p, sheet = face.person, face.sheet
    s = side * (face.a - side * p.eye_gap) / (p.eye_size * 1.35)  # -1 at the nose, 1 at the temple
    middle = face.b + 0.05 + p.eye_size * 1.12 + 0.01 * face.pose.smile + p.arch * (1 - 0.6 * (s - 0.15) ** 2)
    thick = p.brow * (0.75 - 0.45 * smooth((s - 0.1) / 0.9)) * smooth((1.08 - np.abs(s)) / 0.25)
    hairs = face.strand(s * 9 + side * 30 + middle * 60, middle * 45 - s * 4)
    share = smooth((thick - np.abs(middle)) / 0.014 + 0.35 + 0.45 * hairs) * (np.abs(s) < 1.1) * (thick > 0.002)
    color = p.hair * 0.75 if p.hair.mean() < 0.5 else p.hair * 0.62
    sheet.paint(color * (1 + 0.25 * hairs)[..., None], 0.82 * share)


def _glasses(face: Portrait) -> None:
    """Paint frame, glare and shadow of glasses."""
    p, sheet = face.person, face.sheet
    rng = np.random.default_rng(p.seed + 1)
    round_ = rng.uniform(2.2, 4.0)
    wide, high, rim = p.eye_gap * 0.83, rng.uniform(0.105, 0.135), rng.uniform(0.007, 0.016)
    color = np.array(((0.08, 0.07, 0.07), (0.25, 0.15, 0.08), (0.55, 0.52, 0.48)), np.float32)[int(rng.integers(3))]
    frame = np.zeros_like(face.a)
    for side in (-1, 1):
        x, y = np.abs(face.a - side * p.eye_gap) / wide, np.abs(face.b + 0.025) / high
        r = (x**round_ + y**round_) ** (1 / round_)
        frame = np.maximum(frame, face.line((r - 1) * high, rim))
        glare = smooth(1 - np.abs(face.a + face.b - side * p.eye_gap - 0.08) / 0.05) * (r < 0.95)
        sheet.paint(WHITE, (0.04 + 0.10 * glare) * (r < 1))
    bridge = face.line(face.b + 0.055 - 2.0 * face.a**2, rim) * (np.abs(face.a) < p.eye_gap - wide + 0.01)
    arm = face.line(face.b + 0.06, rim) * (np.abs(face.a) > p.eye_gap + wide) * (np.abs(face.u) < p.width * 1.02)
    frame = np.maximum(frame, np.maximum(bridge, arm))
    sheet.shade(1 - 0.25 * np.roll(frame, max(1, round(0.025 / face.pixel)), 0) * face.face)
    sheet.paint(color, frame)
