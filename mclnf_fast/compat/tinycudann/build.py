"""Makes encodings of encoding configs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mclnf_fast.compat.tinycudann.composite import REDUCTIONS, Composite, Nested
from mclnf_fast.compat.tinycudann.config import Config
from mclnf_fast.compat.tinycudann.encodings import (
    Frequency,
    Grid,
    Identity,
    OneBlob,
    Part,
    SphericalHarmonics,
    TriangleWave,
)
from mclnf_fast.compat.tinycudann.grid import DIMS, KINDS, HalfCellGrid
from mclnf_fast.packing import LIMITS

_INTERPOLATIONS = ("Nearest", "Linear", "Smoothstep")


def build_encoding(n_input_dims: int, values: object) -> Part:
    """Return the encoding of `n_input_dims` coordinates that a config dict describes.

    Raises TypeError or ValueError for a wrong or unknown key or value; the message names it.

    >>> build_encoding(3, {"otype": "Frequency", "n_frequencies": 4}).n_features
    24
    """
    config = Config("encoding_config", values)
    part = _ENCODINGS[config.name("otype", "OneBlob", list(_ENCODINGS))](n_input_dims, config)
    for key in ("n_dims_to_encode", "dims_to_encode_begin"):
        config.get(key, None)  # read by the composite encoding around it; alone they mean nothing
    config.close()
    return part


def _identity(dims: int, config: Config) -> Part:
    return Identity(dims, config.number("scale", 1.0), config.number("offset", 0.0))


def _frequency(dims: int, config: Config) -> Part:
    return Frequency(dims, config.whole("n_frequencies", 12))


def _triangle_wave(dims: int, config: Config) -> Part:
    return TriangleWave(dims, config.whole("n_frequencies", 12))


def _one_blob(dims: int, config: Config) -> Part:
    n = config.whole("n_bins", 16)
    if n & (n - 1):
        raise ValueError(f"{config.owner}: n_bins must be a power of 2, got {n}")
    return OneBlob(dims, n)


def _harmonics(dims: int, config: Config) -> Part:
    if dims != 3:
        raise ValueError(f"{config.owner}: SphericalHarmonics needs 3 coordinates (a direction), got {dims}")
    return SphericalHarmonics(config.whole("degree", 4, most=8))


def _grid(kind: str) -> Callable[[int, Config], Part]:
    def build(dims: int, config: Config) -> Part:
        if dims not in DIMS:
            raise ValueError(f"{config.owner}: a grid needs 2, 3 or 4 coordinates, got {dims}")
        features = config.whole("n_features_per_level", 2)
        if features not in (1, 2, 4, 8):
            raise ValueError(f"{config.owner}: n_features_per_level must be 1, 2, 4 or 8, got {features}")
        levels = config.whole("n_levels", 16, most=LIMITS["grid_levels"])
        name = config.name("type", kind, (*KINDS, "Tile"))
        base = config.whole("base_resolution", 16)
        scale = 2.0
        if name == "Dense" and levels > 1:
            octaves = np.log(np.float32(256.0 / base)) / np.float32(levels - 1)
            scale = float(np.exp(octaves, dtype=np.float32))
        scale = config.number("per_level_scale", scale)
        if scale <= 0:
            raise ValueError(f"{config.owner}: per_level_scale must be positive, got {scale}")
        config.only("stochastic_interpolation", False, "random gradients are not supported")
        config.only("fixed_point_pos", False, "coordinates are floats")
        config.only("hash", "CoherentPrime", "no other hash is compiled into tiny-cuda-nn")
        grid = HalfCellGrid(
            kind="Tiled" if name == "Tile" else name,
            levels=levels,
            features=features,
            log2_size=config.whole("log2_hashmap_size", 19, least=0, most=30),
            base=base,
            growth=scale,
            interpolation=config.name("interpolation", "Linear", _INTERPOLATIONS).lower(),
        )
        return Grid(dims, grid)

    return build


def _composite(dims: int, config: Config) -> Part:
    nested = config.get("nested", None)
    if not isinstance(nested, (list, tuple)) or not nested:
        raise ValueError(f"{config.owner}: nested must be a list of encoding configs, got {nested!r}")
    inner = [Config(f"{config.owner}: nested[{k}]", values) for k, values in enumerate(nested)]
    placed = any("dims_to_encode_begin" in entry for entry in inner)
    counts = [entry.whole("n_dims_to_encode", 0, least=0) for entry in inner]
    open_ = [k for k, entry in enumerate(inner) if "n_dims_to_encode" not in entry]
    if len(open_) > (0 if placed else 1):
        rule = "by none beside dims_to_encode_begin" if placed else "by one of nested at most"
        raise ValueError(f"{config.owner}: n_dims_to_encode may be left out {rule}, got {len(open_)} without it")
    if open_:
        counts[open_[0]] = max(dims - sum(counts), 0)
    parts, begin = [], 0
    for entry, values, count in zip(inner, nested, counts):
        begin = entry.whole("dims_to_encode_begin", begin, least=0)
        if begin + count > dims:
            raise ValueError(
                f"{entry.owner}: n_dims_to_encode must end within the {dims} coordinates, got {count} from {begin} on"
            )
        if count > 0:
            part = build_encoding(count, values)
            part.align(1)
            parts.append(Nested(part, begin))
        begin += count
    if not parts:
        raise ValueError(f"{config.owner}: nested must encode at least one coordinate, got none")
    return Composite(dims, parts, config.name("reduction", "Concatenation", REDUCTIONS))


def _radiance_cache(dims: int, config: Config) -> Part:
    waves = {"otype": "TriangleWave", "n_dims_to_encode": 3, "n_frequencies": config.get("n_frequencies", 12)}
    blobs = {"otype": "OneBlob", "n_dims_to_encode": 5, "n_bins": config.get("n_bins", 4)}
    return _composite(dims, Config(config.owner, {"nested": [waves, blobs, {"otype": "Identity"}]}))


_ENCODINGS: dict[str, Callable[[int, Config], Part]] = {
    "Composite": _composite,
    "Frequency": _frequency,
    "Grid": _grid("Hash"),
    "HashGrid": _grid("Hash"),
    "DenseGrid": _grid("Dense"),
    "TiledGrid": _grid("Tiled"),
    "Identity": _identity,
    "OneBlob": _one_blob,
    "SphericalHarmonics": _harmonics,
    "TriangleWave": _triangle_wave,
    "NRC": _radiance_cache,
    "OneBlobFrequency": _radiance_cache,
}
