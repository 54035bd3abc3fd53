"""Reads a material of glTF: its base color, from factors, vertex colors and a texture, and what is cut out of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mclnf_fast.data.graphics.mesh import Wrap
from mclnf_fast.data.readers.decoding.gltf_file import GltfFile
from mclnf_fast.data.readers.decoding.mesh_part import MeshPart, Textures
from mclnf_fast.errors import InputError

CUTOFF = 0.5  # of alpha, when a material names none
WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
GLOSSY, MOVED = "KHR_materials_pbrSpecularGlossiness", "KHR_texture_transform"


class Material:
    """One material of a file; index None is the default one, white and opaque.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gltf")
    ...     _ = path.write_text('{"asset": {"version": "2.0"}}')
    ...     material = Material(GltfFile(path, lambda name: b""), None, Textures())
    >>> material.factor.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, file: GltfFile, index: int | None, textures: Textures) -> None:
        self.file, self.textures = file, textures
        content = {} if index is None else file.item("materials", index)
        skin, keys = content.get("pbrMetallicRoughness", {}), ("baseColorFactor", "baseColorTexture")
        if GLOSSY in content.get("extensions", {}):
            skin, keys = content["extensions"][GLOSSY], ("diffuseFactor", "diffuseTexture")
        self.factor = np.array(skin.get(keys[0], (1, 1, 1, 1)), np.float64).reshape(4)
        if not np.isfinite(self.factor).all():
            raise ValueError(f"{keys[0]} must be finite")
        self.texture: dict[str, Any] | None = skin.get(keys[1])
        mode = content.get("alphaMode", "OPAQUE")
        if mode not in ("OPAQUE", "MASK", "BLEND"):
            raise InputError(f"{file.path}: alphaMode must be OPAQUE, MASK or BLEND, was {mode!r}")
        cutoff = float(content.get("alphaCutoff", CUTOFF)) if mode == "MASK" else CUTOFF
        # What brings the cutoff of alpha, which is the texture's times the factor's, to the renderer's 1/2.
        self.scale = None if mode == "OPAQUE" or not cutoff > 0 else 0.5 * float(self.factor[3]) / cutoff

    def painted(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        attributes: dict[str, Any],
        read: Callable[..., np.ndarray],
        warn: Callable[[str], None],
    ) -> MeshPart:
        """Return the faces of a primitive with their colors, without those that are wholly transparent.

        Args:
            vertices: float64 [N, 3].
            faces: int64 [F, 3].
            attributes: of the primitive, by name.
            read: function of an attribute's name that returns its values.
            warn: takes a line on what is read otherwise than the file says.
        """
        color = np.ones((len(vertices), 4))
        if "COLOR_0" in attributes:
            # Some writers leave out that bytes are normalized, which they must be.
            values = read("COLOR_0", True)
            color[:, : values.shape[1]] = values[:, :4]
            if not np.isfinite(color).all():
                raise InputError(f"{self.file.path}: colors of vertices must be finite, some are not")
        paint = (color[:, :3] * self.factor[:3]).clip(0.0, 1.0).astype(np.float32)
        scale = self.scale
        if scale is not None and "COLOR_0" in attributes:
            level = color[:, 3][faces] * scale
            if len(faces) and float(np.ptp(level)) == 0:
                scale = float(level.flat[0])
            else:
                # No texture is more opaque than 1: what is below the cutoff at all corners is below it everywhere.
                faces = faces[(level >= 0.5).any(1)]
                level = color[:, 3][faces] * scale
                if (level < 0.5).any() or (self.texture is not None and float(np.ptp(level)) > 0):
                    warn("alpha of vertex colors is passed over where it changes within a face")
        if self.texture is None:
            if scale is not None and scale < 0.5:
                faces = faces[:0]
            return MeshPart(vertices, faces, paint[faces])
        uv = self._places(read, attributes)[faces].astype(np.float32)
        picture, key, wrap = self._picture()
        texture = self.textures.texture(key, picture, scale)
        return MeshPart(vertices, faces, paint[faces], uv, np.ones(len(faces), bool), texture, wrap)

    def _places(self, read: Callable[..., np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        """Return each vertex's place in the texture [N, 2], v upwards."""
        assert self.texture is not None
        change = self.texture.get("extensions", {}).get(MOVED, {})
        name = f"TEXCOORD_{change.get('texCoord', self.texture.get('texCoord', 0))}"
        if name not in attributes:
            raise InputError(f"{self.file.path}: a part with a texture must have its places {name}, has none")
        uv = read(name)
        if uv.shape[1] != 2:
            raise ValueError(f"{name} must be VEC2")
        angle = float(change.get("rotation", 0.0))
        scaled = uv * np.array(change.get("scale", (1, 1)), np.float64).reshape(2)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        uv = scaled @ turn.T + np.array(change.get("offset", (0, 0)), np.float64).reshape(2)
        if not np.isfinite(uv).all():
            raise InputError(f"{self.file.path}: places in textures must be finite, some are not")
        return np.stack([uv[:, 0], 1.0 - uv[:, 1]], 1)

    def _picture(self) -> tuple[Any, int, Wrap]:
        """Return the texture's picture, its index and how it goes on beyond its edges."""
        assert self.texture is not None
        texture = self.file.item("textures", self.texture["index"])
        extensions = texture.get("extensions", {})
        source = extensions.get("EXT_texture_webp", {}).get("source", texture.get("source"))
        if source is None:
            named = ", ".join(extensions) or "no picture"
            raise InputError(f"{self.file.path}: textures/{self.texture['index']} has {named}, which is not read")
        image = self.file.item("images", source)
        name = Path(f"{self.file.path}#images/{source}")
        uri = image.get("uri")
        if isinstance(uri, str) and not uri.startswith("data:"):
            name = self.file.path.parent / uri

        def content() -> bytes:
            return self.file.bytes_of(image["bufferView"])[0] if "bufferView" in image else self.file.address(uri)

        sampler = self.file.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        wraps = [sampler.get(key, 10497) for key in ("wrapS", "wrapT")]
        if not all(wrap in WRAPS for wrap in wraps):
            raise InputError(f"{self.file.path}: wrapS and wrapT must be of {list(WRAPS)}, were {wraps}")
        return self.textures.picture(source, name, content), source, (WRAPS[wraps[0]], WRAPS[wraps[1]])
