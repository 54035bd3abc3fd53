"""Folders of COLMAP for tests: cameras, images and points, as text or binary, written from COLMAP's documentation."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mclnf_fast.render.cameras import look_at

# Numbers, names, and parameters that stand for every model; the focal length is 20 at 16 x 12 pixels.
MODELS = {
    "SIMPLE_PINHOLE": (0, [20.0, 8.5, 6.25]),
    "PINHOLE": (1, [20.0, 21.0, 8.5, 6.25]),
    "SIMPLE_RADIAL": (2, [20.0, 8.5, 6.25, -0.1]),
    "RADIAL": (3, [20.0, 8.5, 6.25, 0.1, 0.02]),
    "OPENCV": (4, [20.0, 21.0, 8.5, 6.25, -0.2, 0.05, 0.002, -0.003]),
    "OPENCV_FISHEYE": (5, [20.0, 21.0, 8.5, 6.25, 0.03, -6e-3, 4e-4, 1e-4]),
    "FULL_OPENCV": (6, [20.0, 21.0, 8.5, 6.25, 0.3, 0.02, -0.001, 0.002, 1e-3, 0.5, 0.04, 1e-3]),
    "FOV": (7, [20.0, 21.0, 8.5, 6.25, 0.9]),
    "SIMPLE_RADIAL_FISHEYE": (8, [20.0, 8.5, 6.25, 0.05]),
    "RADIAL_FISHEYE": (9, [20.0, 8.5, 6.25, 0.05, -0.01]),
    "THIN_PRISM_FISHEYE": (10, [20.0, 21.0, 8.5, 6.25, -0.02, 2e-3, 2e-3, -1e-3, 1e-4, 1e-5, 2e-3, -3e-3]),
    "SIMPLE_FISHEYE": (14, [20.0, 8.5, 6.25]),
    "FISHEYE": (15, [20.0, 21.0, 8.5, 6.25]),
}
POINTS = np.random.default_rng(0).uniform(-1, 1, (80, 3))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    return np.linalg.eigh(k)[1][:, 3]


def ring(count: int) -> np.ndarray:
    """Camera-to-world poses [count, 4, 4], OpenGL's axes, around the origin and above it."""
    turn = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count) + 0.1
    position = torch.stack((3 * turn.cos(), 3 * turn.sin(), torch.full_like(turn, 2.0)), 1)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = look_at(position, torch.zeros_like(position)).numpy()
    return poses


def posed_images(poses: np.ndarray, names: list[str], cameras: list[int]) -> list[tuple]:
    """Rows of an images file: number, quaternion and translation of world-to-camera in OpenCV's axes, camera, name."""
    rows = []
    for k, (pose, name, camera) in enumerate(zip(poses, names, cameras)):
        world_to_camera = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        rows.append((k + 1, [*quaternion(world_to_camera[:3, :3]), *world_to_camera[:3, 3]], camera, name))
    return rows


def write_text(
    folder: Path, cameras: dict[int, tuple], images: list[tuple], points: np.ndarray | None = POINTS
) -> None:
    """cameras: number -> (model, width, height, parameters)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list with one line of data per camera:"]
    for number, (model, width, height, parameters) in cameras.items():
        lines.append(f"{number} {model} {width} {height} " + " ".join(map(repr, map(float, parameters))))
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:", "#   POINTS2D[] as (X, Y, POINT3D_ID)"]
    for number, pose, camera, name in images:
        lines.append(f"{number} " + " ".join(map(repr, map(float, pose))) + f" {camera} {name}")
        lines.append("1.5 2.5 -1 3.5 4.5 7" if number % 2 else "")  # an image may have no points
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    if points is not None:
        rows = [f"{k} {x!r} {y!r} {z!r} 1 2 3 0.5 1 2" for k, (x, y, z) in enumerate(points.tolist())]
        (folder / "points3D.txt").write_text("\n".join(["# 3D point list", *rows]) + "\n")


def write_binary(
    folder: Path, cameras: dict[int, tuple], images: list[tuple], points: np.ndarray | None = POINTS
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = struct.pack("<Q", len(cameras))
    for number, (model, width, height, parameters) in cameras.items():
        content += struct.pack("<IiQQ", number, MODELS[model][0], width, height)
        content += struct.pack(f"<{len(parameters)}d", *parameters)
    (folder / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for number, pose, camera, name in images:
        content += struct.pack("<I7dI", number, *pose, camera) + name.encode() + b"\0"
        seen = number % 2
        content += struct.pack("<Q", seen) + struct.pack("<ddq", 1.5, 2.5, -1) * seen
    (folder / "images.bin").write_bytes(content)
    if points is not None:
        content = struct.pack("<Q", len(points))
        for k, xyz in enumerate(points):
            content += struct.pack("<QdddBBBdQii", k, *xyz, 1, 2, 3, 0.5, 1, 1, 2)
        (folder / "points3D.bin").write_bytes(content)


def write_pictures(folder: Path, names: list[str], sizes: dict[str, tuple[int, int]] | None = None) -> None:
    for k, name in enumerate(names):
        width, height = (sizes or {}).get(name, (16, 12))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((height, width, 3), (20 * k, 100, 200), np.uint8)).save(path)
