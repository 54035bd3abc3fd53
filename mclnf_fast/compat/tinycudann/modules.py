"""The modules of tiny-cuda-nn's PyTorch extension: `Encoding`, `Network`, `NetworkWithInputEncoding`."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.compat.tinycudann import initial, original
from mclnf_fast.compat.tinycudann.build import build_encoding
from mclnf_fast.compat.tinycudann.config import Config
from mclnf_fast.compat.tinycudann.encodings import Part
from mclnf_fast.compat.tinycudann.network import ALIGNMENT, MLP

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BACKENDS = ("auto", "cpu", "reference", "tinycudann")


def free_temporary_memory() -> None:
    """Collect garbage. There is no arena of memory beside torch's, so that there is nothing else to free.

    >>> free_temporary_memory()
    """
    gc.collect()


def supports_jit_fusion() -> bool:
    """Return whether kernels are compiled for a module at run time: never.

    >>> supports_jit_fusion()
    False
    """
    return False


class Module(torch.nn.Module):
    """Base of the modules: flat parameters, an encoding and perhaps a network.

    Attributes:
        params: the network's weights, then the encoding's tables, in tiny-cuda-nn's order; float32.
        n_input_dims, n_output_dims: the widths of inputs and outputs.
        dtype: of the outputs; float64 if `params` is.
        seed: of the initial parameters, which are those of tiny-cuda-nn up to a rounding.
        loss_scale: 1. Gradients are computed in float32, so that nothing has to be scaled.
        jit_fusion: can be set, and changes nothing.
    """

    _encoding: Part
    _network: MLP | None = None
    _original: Any

    def __init__(self, seed: int = 1337, dtype: torch.dtype | None = None, backend: str | None = "auto") -> None:
        super().__init__()
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {seed!r}")
        if backend is not None and backend not in _BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, or None, got {backend!r}")
        self.seed = seed
        self.backend = backend
        self.dtype = torch.float32 if dtype is None else dtype
        self.loss_scale = 1.0
        self.jit_fusion = False

    def _begin(self, *arguments: Any, **options: Any) -> None:
        """Make the parameters, in the real package's module of these arguments if that is the backend."""
        expected = self._encoding.n_params + (self._network.n_params if self._network else 0)
        # In the dictionary alone, since its parameters are these: as a submodule it would double them.
        self.__dict__["_original"] = None
        if self.backend == "tinycudann":
            module = original.original_module(type(self).__name__, *arguments, **options)
            if module.params.numel() != expected:
                count = module.params.numel()
                raise RuntimeError(f"params of the installed tinycudann must have {expected} numbers, got {count}")
            self.__dict__["_original"] = module
            self.dtype, self.loss_scale = module.dtype, module.loss_scale
            self.params = torch.nn.Parameter(module.params.detach())
        else:
            self.params = torch.nn.Parameter(self._initial(expected))

    def _initial(self, count: int) -> Tensor:
        rng = initial.Pcg32(self.seed)
        numbers = [np.empty(0, np.float32)]
        if self._network is not None:
            activation = self._network.activation
            for layer, shape in enumerate(self._network.shapes):
                numbers.append(initial.matrix(rng, *shape, activation, first=layer == 0))
        numbers += [initial.grid(rng, grid.n_params) for grid in self._encoding.grids()]
        return torch.from_numpy(np.concatenate(numbers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, n_output_dims] for x [N, n_input_dims], in [0, 1] as the encodings expect it.

        N may be 0; any strides; half types are widened. Autocast changes nothing.

        Raises TypeError or ValueError if x has another type, shape, dtype or device.
        """
        check_tensor("x", x, (None, self.n_input_dims), _FLOATS, self.params.device, "[N, n_input_dims]")
        if self._original is not None:
            self._original.loss_scale = self.loss_scale
            return original.evaluate(self._original, x, self.params)
        dtype = torch.float64 if self.params.dtype == torch.float64 else torch.float32
        with torch.autocast(x.device.type, enabled=False):
            y = self._evaluate(x.to(dtype), self.params.to(dtype))
        return y if dtype == torch.float64 else y.to(self.dtype)

    def _evaluate(self, x: Tensor, params: Tensor) -> Tensor:
        if self._network is None:
            return self._encoding.encode(x, params, self.backend)
        weights, tables = params.split([self._network.n_params, self._encoding.n_params])
        features = self._encoding.features(x, tables, self.backend)
        return self._network.evaluate(features, weights, self.backend)

    def extra_repr(self) -> str:
        return (
            f"n_input_dims={self.n_input_dims}, n_output_dims={self.n_output_dims}, seed={self.seed}, "
            f"dtype={self.dtype}, params={self.params.numel()}"
        )

    n_input_dims: int
    n_output_dims: int


def _dims(name: str, value: int) -> int:
    return Config("tinycudann", {name: value}).whole(name, 1)


class Encoding(Module):
    """An encoding alone.

    Args:
        n_input_dims: coordinates.
        encoding_config: a config dict of tiny-cuda-nn.
        seed: of the initial parameters.
        dtype: of the outputs, float32 (None) or float16, to which they are rounded at the end.
        backend: `"auto"`, `"cpu"`, `"reference"`, or `"tinycudann"` for the real package.

    Raises:
        TypeError, ValueError: a wrong argument, or a wrong or unknown key or value of the config.
        BackendError: the backend can't serve.

    Example:
        >>> import mclnf_fast.compat.tinycudann as tcnn
        >>> encoding = tcnn.Encoding(3, {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 8})
        >>> encoding.n_output_dims, encoding.params.shape, encoding(torch.rand(5, 3)).shape
        (8, torch.Size([2048]), torch.Size([5, 8]))
    """

    def __init__(
        self,
        n_input_dims: int,
        encoding_config: Mapping[str, Any],
        seed: int = 1337,
        dtype: torch.dtype | None = None,
        backend: str | None = "auto",
    ) -> None:
        if dtype not in (None, torch.float32, torch.float16):
            raise ValueError(f"dtype must be torch.float32, torch.float16 or None, got {dtype}")
        super().__init__(seed, dtype, backend)
        self.n_input_dims = _dims("n_input_dims", n_input_dims)
        self.encoding_config = encoding_config
        self._encoding = build_encoding(n_input_dims, encoding_config)
        self.n_output_dims = self._encoding.width
        self._begin(n_input_dims, encoding_config, seed=seed, dtype=dtype)


class NetworkWithInputEncoding(Module):
    """An encoding and a network behind it.

    Args:
        n_input_dims: coordinates.
        n_output_dims: outputs of the network.
        encoding_config, network_config: config dicts of tiny-cuda-nn.
        seed, backend: see `Encoding`.

    Raises:
        TypeError, ValueError: a wrong argument, or a wrong or unknown key or value of a config.
        BackendError: the backend can't serve.

    Example:
        >>> import mclnf_fast.compat.tinycudann as tcnn
        >>> mlp = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 2}
        >>> model = tcnn.NetworkWithInputEncoding(3, 4, {"otype": "Frequency", "n_frequencies": 4}, mlp)
        >>> model.params.shape, model(torch.rand(5, 3)).shape
        (torch.Size([1024]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, Any],
        network_config: Mapping[str, Any],
        seed: int = 1337,
        backend: str | None = "auto",
    ) -> None:
        super().__init__(seed, None, backend)
        self.n_input_dims = _dims("n_input_dims", n_input_dims)
        self.n_output_dims = _dims("n_output_dims", n_output_dims)
        self.encoding_config = encoding_config
        self.network_config = network_config
        self._encoding = build_encoding(n_input_dims, encoding_config)
        self._encoding.align(ALIGNMENT)
        self._network = MLP(self._encoding.columns(), n_output_dims, network_config)
        self._begin(n_input_dims, n_output_dims, encoding_config, network_config, seed=seed)


class Network(Module):
    """A network alone. Its inputs are padded with ones, which makes the padding's weights a bias.

    Args:
        n_input_dims, n_output_dims: its inputs and outputs.
        network_config: a config dict of tiny-cuda-nn.
        seed, backend: see `Encoding`.

    Raises:
        TypeError, ValueError: a wrong argument, or a wrong or unknown key or value of the config.
        BackendError: the backend can't serve.

    Example:
        >>> import mclnf_fast.compat.tinycudann as tcnn
        >>> model = tcnn.Network(32, 3, {"otype": "CutlassMLP", "n_neurons": 24, "n_hidden_layers": 1})
        >>> model.params.shape, model(torch.rand(5, 32)).shape
        (torch.Size([1152]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        network_config: Mapping[str, Any],
        seed: int = 1337,
        backend: str | None = "auto",
    ) -> None:
        super().__init__(seed, None, backend)
        self.n_input_dims = _dims("n_input_dims", n_input_dims)
        self.n_output_dims = _dims("n_output_dims", n_output_dims)
        self.network_config = network_config
        self._encoding = build_encoding(n_input_dims, {"otype": "Identity"})
        self._encoding.align(ALIGNMENT)
        self._network = MLP(self._encoding.columns(), n_output_dims, network_config)
        self._begin(n_input_dims, n_output_dims, network_config, seed=seed)
