"""The part of a network that the Triton ops leave to PyTorch: spherical harmonics."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from mclnf_fast.ops._layers import encode
from mclnf_fast.packing import EncodingKind
from mclnf_fast.spec import FieldSpec, Identity


def without_spherical(x: Tensor, spec: FieldSpec) -> tuple[Tensor, FieldSpec]:
    """Return x and spec, or, if the encoding has spherical harmonics, which no kernel forms, the features that PyTorch
    has formed and the same field over them."""
    if all(part.kind != EncodingKind.SPHERICAL for part in spec.encoding.parts(0, spec.in_dim)):
        return x, spec
    encoded = dataclasses.replace(spec, in_dim=spec.encoded_dim, encoding=Identity())
    return encode(spec.encoding, x), encoded
