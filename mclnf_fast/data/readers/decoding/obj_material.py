"""Reads the libraries of materials that OBJ files name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from mclnf_fast.data.graphics.mesh import REPEAT, Wrap
from mclnf_fast.errors import InputError

GRAY = 0.6  # sRGB, when a file names no color
# Options of a texture and how many values each takes at most; those that are read stand in `_texture`.
OPTIONS = {
    "-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-bm": 1, "-boost": 1, "-texres": 1, "-clamp": 1, "-blendu": 1,
    "-blendv": 1, "-cc": 1, "-imfchan": 1, "-type": 1, "-colorspace": 1,
}  # fmt: skip
HARMLESS = ("-bm", "-boost", "-texres", "-blendu", "-blendv", "-colorspace")  # of filters and other channels


@dataclass
class ObjTexture:
    """A picture, the library that names it, and how places become places in it: `place * scale + offset`.

    >>> ObjTexture("a.png", "a.mtl").wrap
    ('repeat', 'repeat')
    """

    name: str
    source: str
    scale: np.ndarray = field(default_factory=lambda: np.ones(2))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(2))
    wrap: Wrap = REPEAT


@dataclass
class ObjMaterial:
    """One material: its color, sRGB [3], its opacity, its texture, and whether a picture cuts parts of it out.

    >>> ObjMaterial().opacity
    1.0
    """

    color: np.ndarray = field(default_factory=lambda: np.full(3, GRAY))
    opacity: float = 1.0
    texture: ObjTexture | None = None
    is_cut: bool = False


def read_library(text: str, source: str) -> dict[str, ObjMaterial]:
    """Return the materials in the text of a library; `source` begins an error.

    Raises:
        InputError: an option of a color's texture that is not read, or a number that is none.

    >>> read_library("newmtl red\\nKd 1 0 0", "a.mtl")["red"].color.tolist()
    [1.0, 0.0, 0.0]
    """
    materials: dict[str, ObjMaterial] = {}
    current = ObjMaterial()
    for line in re.split("\r\n|\r|\n", text):
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        if word == "newmtl":
            current = materials.setdefault(rest, ObjMaterial())
        elif word == "Kd":
            if rest.split()[:1] in (["spectral"], ["xyz"]):
                raise InputError(f"{source}: Kd must be RGB, was {rest[:60]!r}")
            values = _numbers(rest, "Kd", source)
            current.color = np.array(values[:3] if len(values) >= 3 else values[:1] * 3)
        elif word in ("d", "Tr"):
            value = _numbers(rest.removeprefix("-halo"), word, source)[0]
            current.opacity = value if word == "d" else 1.0 - value
        elif word == "map_d" and rest:
            current.is_cut = True
        elif word == "map_Kd" and rest:
            current.texture = _texture(rest, source)
    return materials


def _numbers(text: str, word: str, source: str) -> list[float]:
    try:
        values = [float(value) for value in text.partition("#")[0].split()]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise InputError(f"{source}: {word} must be finite numbers, was {text[:60]!r}")
    return values


def _texture(rest: str, source: str) -> ObjTexture:
    """Return the texture of a `map_Kd` line: options, then the name of a picture, which may hold blanks."""
    texture = ObjTexture("", source)
    while rest.startswith("-") and rest.split()[0].lower() in OPTIONS:
        option, _, rest = rest.partition(" ")
        option, rest = option.lower(), rest.strip()
        words: list[str] = []
        while rest and len(words) < OPTIONS[option]:
            word = rest.split()[0]
            if OPTIONS[option] > 1 and words and not _is_number(word):
                break  # the second and third value may be left out
            words.append(word)
            rest = rest[len(word) :].strip()
        values = [float(word) for word in words if _is_number(word)]
        if option == "-clamp":
            texture.wrap = ("clamp", "clamp") if words == ["on"] else REPEAT
        elif option in ("-s", "-o") and values:
            pair = np.array([*values[:2], *([1.0 if option == "-s" else 0.0] * (2 - len(values)))])
            texture.scale, texture.offset = (pair, texture.offset) if option == "-s" else (texture.scale, pair)
        elif option not in HARMLESS and not _is_default(option, words, values):
            raise InputError(f"{source}: the option {option} {' '.join(words)} of map_Kd is not read")
    if not (np.isfinite(texture.scale).all() and np.isfinite(texture.offset).all()):
        raise InputError(f"{source}: -s and -o of map_Kd must be finite, were not")
    texture.name = rest
    if not rest:
        raise InputError(f"{source}: map_Kd must name a picture, names none")
    return texture


def _is_default(option: str, words: list[str], values: list[float]) -> bool:
    """Return whether an option's values change nothing."""
    if option == "-mm":
        return values == [0.0, 1.0]
    return words == ["off"] if option == "-cc" else option == "-t" and not any(values)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
