"""The parts of a mesh file, one per geometry and material, and the textures that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mclnf_fast.data.graphics.mesh import REPEAT, Wrap, to_linear
from mclnf_fast.data.readers.decoding.pictures import decoded, eight_bits


@dataclass
class MeshPart:
    """N vertices and F triangles of one material, in the file's own axes.

    Attributes:
        vertices: float64 [N, 3].
        faces: int64 [F, 3].
        colors: float32 [F, 3, 3], linear albedo of the corners.
        uv: float32 [F, 3, 2], as `Mesh` has them; None: no texture.
        textured: bool [F], the faces that have places in the texture.
        texture: float32 [h, w, 3 or 4], see `Mesh`.
        wrap: how the texture goes on beyond its edges, in u and v.

    >>> MeshPart(np.eye(3), np.array([[0, 1, 2]]), np.ones((1, 3, 3), np.float32)).texture is None
    True
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    uv: np.ndarray | None = None
    textured: np.ndarray | None = None
    texture: Tensor | None = None
    wrap: Wrap = REPEAT


class Textures:
    """The pictures of one file as textures, each decoded once.

    >>> Textures().pictures
    {}
    """

    def __init__(self) -> None:
        self.pictures: dict[object, Image.Image] = {}
        self.textures: dict[tuple[object, object], Tensor] = {}

    def picture(self, key: object, name: Path, content: Callable[[], bytes]) -> Image.Image:
        """Return the picture in the bytes of `content`, which errors call `name`, in mode RGB or RGBA.

        Raises:
            InputError: no image or corrupt.
        """
        if key not in self.pictures:
            self.pictures[key] = eight_bits(decoded(name, content()))
        return self.pictures[key]

    def texture(self, key: object, picture: Image.Image, scale: float | None) -> Tensor:
        """Return a picture as float32 [h, w, 3], linear; with a `scale` [h, w, 4] if its alpha times that is below 1/2.

        The renderer cuts at an alpha of 1/2; `scale` brings a material's own cutoff there. A picture that is opaque
        everywhere goes without the fourth channel, which would have to be looked up at every sample.
        """
        if (key, scale) not in self.textures:
            self.textures[key, scale] = texture_of(picture, scale)
        return self.textures[key, scale]


def texture_of(picture: Image.Image, scale: float | None) -> Tensor:
    """Return a picture as a texture, see `Textures.texture`.

    >>> texture_of(Image.new("RGBA", (2, 1), (255, 255, 255, 100)), 1.0).shape
    torch.Size([1, 2, 4])
    """
    color = to_linear(torch.arange(256, dtype=torch.float32) / 255.0)[
        torch.from_numpy(np.array(picture.convert("RGB"))).long()
    ]
    if scale is None:
        return color
    alpha = torch.from_numpy(np.array(picture.convert("RGBA"))[..., 3:]).to(torch.float32) * (scale / 255.0)
    return torch.cat((color, alpha), 2) if float(alpha.min()) < 0.5 else color
