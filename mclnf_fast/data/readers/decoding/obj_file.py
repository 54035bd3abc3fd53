"""Reads Wavefront OBJ files as parts, one per material: any polygons, several libraries, text in any encoding."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mclnf_fast.data.graphics.mesh import to_linear
from mclnf_fast.data.graphics.triangulate import triangulate_all
from mclnf_fast.data.readers.decoding.mesh_part import MeshPart, Textures
from mclnf_fast.data.readers.decoding.obj_material import GRAY, ObjMaterial, ObjTexture, read_library
from mclnf_fast.errors import InputError

_log = logging.getLogger("mclnf_fast")
FREE_FORM = ("curv", "curv2", "surf", "cstype", "deg", "bmat", "parm")
LINE_END = re.compile("\r\n|\r|\n")  # and not other characters, at which `splitlines` cuts too
FLAT = {"l": "lines", "p": "points"}


def text_of(content: bytes) -> str:
    """Return the text of a file: UTF-8 or UTF-16, else Windows' western encoding.

    >>> text_of("newmtl gr\\u00fcn".encode("cp1252")) == text_of("newmtl gr\\u00fcn".encode("utf-16"))
    True
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if b"\0" in content[1:2]:
        return content.decode("utf-16-le", "replace")
    if content[:1] == b"\0":
        return content.decode("utf-16-be", "replace")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")  # any bytes are text in it


@dataclass
class _Group:
    """The faces of one material.

    `regular` holds lines of faces of one form, by their number of corners and of numbers per corner, which are read
    together: Python takes a microsecond for each number otherwise. `others` are vertices and places of single faces.
    """

    regular: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    others: list[tuple[np.ndarray, np.ndarray | None]] = field(default_factory=list)


def read_obj(path: Path, read_beside: Callable[[str], bytes]) -> list[MeshPart]:
    """Return the parts of an OBJ file.

    A material's color is its `Kd`, or its texture `map_Kd` where a face has places in it; without a material it is that
    of the vertices, or gray. Parts that `d` or `Tr` makes more than half transparent are left out. Lines and points,
    which have no surface, and `map_d` are passed over with a warning.

    Args:
        path: the file.
        read_beside: function that returns the content of another file that it names.

    Raises:
        InputError: curved surfaces, an option of a texture that is not read, faces that name vertices that are not
            there.
        ValueError, LookupError: a malformed file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.obj")
    ...     _ = path.write_text("v 0 0 0\\nv 1 0 0\\nv 1 1 0\\nv 0 1 0\\nf 1 2 3 4\\n")
    ...     (part,) = read_obj(path, lambda name: b"")
    >>> part.faces.tolist()
    [[0, 1, 2], [0, 2, 3]]
    """
    return _Reader(path, read_beside).parts()


class _Reader:
    def __init__(self, path: Path, read_beside: Callable[[str], bytes]) -> None:
        self.path, self.read_beside = path, read_beside
        self.materials: dict[str, ObjMaterial] = {}
        self.groups: dict[str | None, _Group] = {}
        self.vertex_lines: list[str] = []
        self.place_lines: list[str] = []
        self.warned: set[str] = set()
        libraries: list[str] = []
        current: str | None = None
        text = re.sub(r"\\(\r\n|\r|\n)", " ", text_of(path.read_bytes()))
        for line in LINE_END.split(text):
            word, _, rest = line.strip().partition(" ")
            if "\t" in word:
                word, _, rest = line.strip().replace("\t", " ").partition(" ")
            if word == "v":
                self.vertex_lines.append(rest)
            elif word == "f":
                self._face(rest, self.groups.setdefault(current, _Group()))
            elif word == "vt":
                self.place_lines.append(rest)
            elif word == "usemtl":
                current = rest.strip() or None
            elif word == "mtllib":
                libraries.append(rest.strip())
            elif word in FREE_FORM:
                raise InputError(f"{path}: has curved surfaces ({word}), which are not read")
            elif word in FLAT:
                self._warn(f"{FLAT[word]} are passed over, they have no surface")
        for library in libraries:
            self._library(library)

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            _log.warning("%s: %s", self.path, text)

    def _library(self, names: str) -> None:
        """Read the libraries of one `mtllib` line: a name, which may hold blanks, or several."""
        try:
            contents = [(names, self.read_beside(names))]
        except InputError:
            if len(names.split()) < 2:
                raise
            contents = [(name, self.read_beside(name)) for name in names.split()]
        for name, content in contents:
            for key, material in read_library(text_of(content), f"{self.path.parent / name}").items():
                self.materials.setdefault(key, material)  # of several of one name the first counts

    def _picture(self, texture: ObjTexture) -> bytes:
        try:
            return self.read_beside(texture.name)
        except InputError as error:
            raise InputError(f"{error} (named in {texture.source})") from None

    def _face(self, rest: str, group: _Group) -> None:
        """Keep one face, as its line if it has one of the usual forms."""
        rest = rest.partition("#")[0]
        corners = rest.split()
        if len(corners) < 3:
            raise ValueError(f"a face must have three corners, was {rest[:60]!r}")
        slashes, doubled = rest.count("/"), rest.count("//")
        forms = {(0, 0): "v", (len(corners), 0): "v/t", (2 * len(corners), 0): "v/t/n"}
        form = "v//n" if doubled == len(corners) and slashes == 2 * doubled else forms.get((slashes, doubled))
        if form is not None and "-" not in rest:
            group.regular.setdefault((len(corners), form), []).append(rest)
            return
        vertices = np.empty(len(corners), np.int64)
        places: np.ndarray | None = np.empty(len(corners), np.int64)
        for k, corner in enumerate(corners):
            numbers = corner.split("/")
            if len(numbers) > 3:
                raise ValueError(f"a corner must have three numbers at most, was {corner[:60]!r}")
            vertices[k] = self._index(numbers[0], len(self.vertex_lines))
            if places is None or len(numbers) < 2 or not numbers[1]:
                places = None
            else:
                places[k] = self._index(numbers[1], len(self.place_lines))
        group.others.append((vertices, places))

    @staticmethod
    def _index(text: str, count: int) -> int:
        """Return an index from 0; those below 0 count from the last line before the face."""
        number = int(text)
        return number - 1 if number > 0 else count + number

    def parts(self) -> list[MeshPart]:
        """Return the parts, one per material."""
        rows = [line.partition("#")[0].split() for line in self.vertex_lines]
        if any(len(row) < 3 for row in rows):
            raise ValueError("a vertex must have three coordinates")
        vertices = np.array([row[:3] for row in rows], np.float64).reshape(-1, 3)
        # Behind the coordinates: nothing, a weight, or a color.
        paint = None
        if rows and all(len(row) >= 6 for row in rows):
            paint = np.array([row[3:6] for row in rows], np.float64).reshape(-1, 3)
            paint = paint / 255.0 if paint.max() > 1 else paint
        places = np.array([[*line.split()[:2], "0"][:2] for line in self.place_lines], np.float64).reshape(-1, 2)
        textures = Textures()
        parts = [self._part(name, group, vertices, paint, places, textures) for name, group in self.groups.items()]
        return [part for part in parts if len(part.faces)]

    def _part(
        self,
        name: str | None,
        group: _Group,
        vertices: np.ndarray,
        paint: np.ndarray | None,
        places: np.ndarray,
        textures: Textures,
    ) -> MeshPart:
        faces, uv, textured = self._triangles(group, vertices, places)
        used, inverse = np.unique(faces, return_inverse=True)
        if len(used) and (used[0] < 0 or used[-1] >= len(vertices)):
            raise InputError(f"{self.path}: faces must name its {len(vertices)} vertices, some do not")
        if not np.isfinite(vertices[used]).all():
            raise InputError(f"{self.path}: must have finite vertices, some are not")
        material = self.materials.get(name) if name is not None else None
        if material is None and name is not None and self.materials:
            self._warn(f"material {name!r} is in none of its libraries, its faces are gray")
        color = np.full((len(faces), 3, 3), GRAY)
        if material is not None:
            color = np.broadcast_to(material.color, color.shape)
            if paint is not None:
                self._warn("colors of vertices are passed over where there is a material")
            if material.is_cut:
                self._warn("map_d is passed over, nothing is cut out by it")
            if material.opacity < 0.5:
                faces, color, uv, textured = faces[:0], color[:0], uv[:0], textured[:0]
                inverse = inverse[:0]
        elif paint is not None:
            color = paint[faces]
        if not np.isfinite(color).all():
            raise InputError(f"{self.path}: colors of vertices must be finite, some are not")
        linear = to_linear(torch.from_numpy(color.clip(0.0, 1.0).astype(np.float32))).numpy()
        part = MeshPart(vertices[used], inverse.reshape(-1, 3).astype(np.int64), linear)
        if material is not None and material.texture is not None and textured.any():
            texture = material.texture
            place = self.path.parent / texture.name
            picture = textures.picture(texture.name, place, lambda: self._picture(texture))
            part.texture, part.wrap = textures.texture(texture.name, picture, None), texture.wrap
            part.uv, part.textured = (uv * texture.scale + texture.offset).astype(np.float32), textured
            if not np.isfinite(part.uv).all():
                raise InputError(
                    f"{self.path}: places in textures must be finite, some are not (scaled by {texture.source})"
                )
            # A texture stands for the color: many writers leave Kd at black beside it.
            linear[textured] = 1.0
        return part

    def _triangles(
        self, group: _Group, vertices: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return triangles [F, 3], their places [F, 3, 2] in the texture, and whether they have such [F]."""
        faces, uv, textured = [np.zeros((0, 3), np.int64)], [np.zeros((0, 3, 2))], [np.zeros(0, bool)]
        groups: list[tuple[np.ndarray, np.ndarray | None]] = []
        for (count, form), lines in group.regular.items():
            width = 1 + min(form.count("/"), 2) - form.count("//")
            numbers = np.array(" ".join(lines).replace("/", " ").split(), np.int64).reshape(-1, count, width) - 1
            groups.append((numbers[..., 0], numbers[..., 1] if "t" in form else None))
        groups += [(corners[None], None if own is None else own[None]) for corners, own in group.others]
        for corners, own in groups:
            if corners.min() < 0 or corners.max() >= len(vertices):
                raise InputError(f"{self.path}: faces must name its {len(vertices)} vertices, some do not")
            if own is not None and (own.min() < 0 or own.max() >= len(places)):
                raise InputError(f"{self.path}: faces must name its {len(places)} places (vt), some do not")
            row, cut = triangulate_all(vertices[corners])
            faces.append(corners[row[:, None], cut])
            uv.append(np.zeros((len(cut), 3, 2)) if own is None else places[own[row[:, None], cut]])
            textured.append(np.full(len(cut), own is not None))
        return np.concatenate(faces), np.concatenate(uv), np.concatenate(textured)
