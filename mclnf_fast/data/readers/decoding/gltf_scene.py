"""Reads the scene of a glTF file as parts: nodes, skins, morph targets, every kind of triangles, base colors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.data.readers.decoding.gltf_file import READ, GltfFile
from mclnf_fast.data.readers.decoding.gltf_material import Material
from mclnf_fast.data.readers.decoding.mesh_part import MeshPart, Textures
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
FLAT_MODES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}


def read_gltf(path: Path, read_beside: Callable[[str], bytes]) -> list[MeshPart]:
    """Return the parts of a glTF file's scene at their places, y up.

    Skins and morph targets are read in the pose that the file stores; points and lines have no surface and are passed
    over with a warning.

    Args:
        path: the file.
        read_beside: function that returns the content of another file that it names.

    Raises:
        InputError: a feature that is not read (the message names it), a corrupt picture, values that are not finite.
        ValueError, LookupError, TypeError, struct.error: a malformed file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gltf")
    ...     _ = path.write_text('{"asset": {"version": "2.0"}}')
    ...     print(read_gltf(path, lambda name: b""))
    []
    """
    return _Scene(GltfFile(path, read_beside)).parts()


class _Scene:
    """The nodes of a file and what hangs on them."""

    def __init__(self, file: GltfFile) -> None:
        self.file, self.textures = file, Textures()
        self.nodes = file.list_of("nodes")
        self.parents: dict[int, int] = {}
        for k, node in enumerate(self.nodes):
            for child in node.get("children", ()):
                file.item("nodes", child)
                if child in self.parents or child == k:
                    raise ValueError(f"node {child} must have one parent")
                self.parents[child] = k
        self.placed: dict[int, np.ndarray] = {}
        self.warned: set[str] = set()
        unread = [str(name) for name in file.content.get("extensionsUsed", ()) if name not in READ]
        if unread:
            self._warn(f"extensions are passed over: {', '.join(unread)}")
        glows = [m for m in file.list_of("materials") if any(m.get("emissiveFactor", ()))]
        if glows:
            self._warn("light that materials emit is passed over, base colors alone are read")

    def parts(self) -> list[MeshPart]:
        """Return the parts of all nodes of the scene."""
        scenes = self.file.list_of("scenes")
        roots = [k for k in range(len(self.nodes)) if k not in self.parents]
        if scenes:
            roots = list(self.file.item("scenes", self.file.content.get("scene", 0)).get("nodes", ()))
        parts: list[MeshPart] = []
        open_nodes = roots[::-1]
        seen: set[int] = set()
        while open_nodes:
            k = open_nodes.pop()
            node = self.file.item("nodes", k)
            if k in seen:
                raise ValueError(f"node {k} must be in the scene once")
            seen.add(k)
            extensions = node.get("extensions", {})
            if not extensions.get("KHR_node_visibility", {}).get("visible", True):
                continue
            if "EXT_mesh_gpu_instancing" in extensions:
                raise InputError(f"{self.file.path}: nodes/{k} has EXT_mesh_gpu_instancing, which is not read")
            if "mesh" in node:
                mesh = self.file.item("meshes", node["mesh"])
                weights = node.get("weights", mesh.get("weights", ()))
                parts += [part for p in mesh["primitives"] for part in self._part(p, k, node, weights)]
            open_nodes += list(node.get("children", ()))[::-1]
        return parts

    def _place(self, k: int) -> np.ndarray:
        """Return the matrix [4, 4] from a node's axes to the scene's."""
        chain = []
        while k not in self.placed:
            chain.append(k)
            if len(chain) > len(self.nodes):
                raise ValueError("nodes must be a tree")
            if k not in self.parents:
                break
            k = self.parents[k]
        matrix = self.placed.get(k, np.eye(4))
        for node in reversed(chain):
            matrix = matrix @ _matrix(self.nodes[node])
            self.placed[node] = matrix
        return matrix

    def _part(self, primitive: dict[str, Any], k: int, node: dict[str, Any], weights: Any) -> list[MeshPart]:
        """Return the part of one primitive of the node `k`, none if it has no surface."""
        file, name = self.file, f"{self.file.path}: meshes/{node['mesh']}"
        attributes, mode = primitive["attributes"], primitive.get("mode", 4)
        if mode in FLAT_MODES:
            self._warn(f"{FLAT_MODES[mode]} (mode {mode}) are passed over, they have no surface")
            return []
        if mode not in (4, 5, 6):
            raise InputError(f"{name}: mode must be from 0 to 6, was {mode!r}")
        position = file.item("accessors", attributes["POSITION"])
        packed = "KHR_draco_mesh_compression" in primitive.get("extensions", {})
        if packed and "bufferView" not in position and "sparse" not in position:
            raise InputError(f"{name}: is compressed with KHR_draco_mesh_compression, which is not read")
        targets = primitive.get("targets", ()) if any(weights) else ()

        def read(attribute: str, normalize: bool = False) -> np.ndarray:
            values = file.array(attributes[attribute], normalize).astype(np.float64)
            for weight, target in zip(weights, targets):
                if attribute in target and weight:
                    values = values + float(weight) * file.array(target[attribute], normalize)
            if len(values) != position["count"]:
                raise ValueError(f"{attribute} must be one per vertex, {position['count']}, was {len(values)}")
            return values

        vertices = read("POSITION")
        if vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise InputError(f"{name}: vertices must be finite and have 3 coordinates, some do not")
        order = np.arange(len(vertices))
        if "indices" in primitive:
            indices = file.array(primitive["indices"])
            if indices.shape[1] != 1 or indices.dtype.kind != "u":
                raise ValueError("indices must be unsigned whole numbers")
            order = indices[:, 0].astype(np.int64)
        faces = _triangles(order, mode)
        if len(faces) and faces.max() >= len(vertices):
            raise InputError(f"{name}: faces must name its {len(vertices)} vertices, some do not")
        if "skin" in node:
            vertices = self._skinned(vertices, read, file.item("skins", node["skin"]), attributes)
        else:
            matrix = self._place(k)
            vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
            if np.linalg.det(matrix[:3, :3]) < 0:  # mirrored: the outside would become the inside
                faces = faces[:, ::-1].copy()
        if not len(faces):
            return []
        material = Material(file, primitive.get("material"), self.textures)
        part = material.painted(vertices, faces, attributes, read, self._warn)
        return [part] if len(part.faces) else []

    def _skinned(
        self, vertices: np.ndarray, read: Callable[..., np.ndarray], skin: dict[str, Any], attributes: dict[str, Any]
    ) -> np.ndarray:
        """Return vertices [N, 3] where the joints hold them; the place of the mesh's own node does not count."""
        joints = np.stack([self._place(self._node(joint)) for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            # Columns first in the file.
            bound = self.file.array(skin["inverseBindMatrices"])[: len(joints)].reshape(-1, 4, 4).swapaxes(1, 2)
            if len(bound) != len(joints):
                raise ValueError("inverseBindMatrices must be one per joint")
            joints = joints @ bound
        total, sums = np.zeros_like(vertices), np.zeros((len(vertices), 1))
        for k in range(len(attributes)):
            if f"JOINTS_{k}" not in attributes:
                break
            ids, shares = read(f"JOINTS_{k}").astype(np.int64), read(f"WEIGHTS_{k}")
            if len(ids) and (ids.max() >= len(joints) or ids.min() < 0):
                raise ValueError(f"joints must be from 0 to {len(joints) - 1}")
            for column in range(ids.shape[1]):
                matrix = joints[ids[:, column]]
                moved = np.einsum("nij,nj->ni", matrix[:, :3, :3], vertices) + matrix[:, :3, 3]
                total += shares[:, column : column + 1] * moved
                sums += shares[:, column : column + 1]
        if not (sums > 0).all():
            raise ValueError("vertices of a skin must have weights")
        return np.asarray(total / sums)

    def _node(self, index: object) -> int:
        self.file.item("nodes", index)
        assert isinstance(index, int)
        return index

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            _log.warning("%s: %s", self.file.path, text)


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """Return the matrix [4, 4] from a node's axes to its parent's."""
    if "matrix" in node:
        matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T  # columns first in the file
    else:
        x, y, z, w = (float(v) for v in node.get("rotation", (0, 0, 0, 1)))
        matrix = np.eye(4)
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
        matrix[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    if not np.isfinite(matrix).all():
        raise ValueError("the place of a node must be finite")
    return matrix


def _triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Return the triangles [F, 3] of a list (4), a strip (5) or a fan (6) of vertices (section 3.7.2.1)."""
    if mode == 4:
        if len(order) % 3:
            raise ValueError(f"triangles must have three corners each, {len(order)} are there")
        return order.reshape(-1, 3)
    k = np.arange(max(len(order) - 2, 0))
    if mode == 6:
        return np.stack([order[k + 1], order[k + 2], np.broadcast_to(order[:1], k.shape)], 1)
    faces = np.stack([order[k], order[k + 1 + k % 2], order[k + 2 - k % 2]], 1)
    # Strips are joined by triangles without an area, which repeat a vertex.
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return faces[whole]
