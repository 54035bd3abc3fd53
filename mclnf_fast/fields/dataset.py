"""A saved bank as a data set: for those who learn on fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mclnf_fast.errors import InputError
from mclnf_fast.fields.bank import FieldBank
from mclnf_fast.fields.io import check_path, load_meta, opened
from mclnf_fast.spec import FieldSpec, from_dict

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
Item = tuple[Tensor | tuple[Tensor, ...], dict[str, Any]]


class FieldDataset(Dataset[Item]):
    """The modules of a bank in a file, each read when it is asked for: the bank need not fit in memory.

    Item i is (parameters, about). `about` has `index`, `name`, `label` (the number of its class in `classes`, -1
    without classes) and `psnr` in dB (NaN if the file names none); torch's `default_collate` makes batches of it. Each
    worker of a `DataLoader` opens the file for itself. The checksum of the file is not looked at: `load_bank` does.

    Args:
        file: of `save_bank` or `mclnf_fast.fit`.
        form: "flat": all parameters as one vector [P], in the order of `FieldBank.stacked`; "layers": a tuple of
            tensors, weights [in, out] of all layers, then biases [out], then tables of grids.
        label: from the name of a signal to its class; None: the first folder in its name but train, val and test. If
            a name has none, no signal has a class.

    Attributes:
        spec: the architecture.
        names: of the signals.
        classes: the classes by name, sorted.
        labels: the number of each signal's class; -1: none.

    Raises:
        InputError: no such file, or it is no bank.

    Example:
        >>> import tempfile
        >>> from mclnf_fast.fields import save_bank
        >>> path = f"{tempfile.mkdtemp()}/bank"
        >>> save_bank(path, FieldBank(FieldSpec(2, 3, 8, 1), modules=4), names=["cat/1", "cat/2", "dog/1", "dog/2"])
        >>> fields = FieldDataset(path)
        >>> loader = torch.utils.data.DataLoader(fields, batch_size=2)
        >>> vectors, about = next(iter(loader))
        >>> vectors.shape, about["label"], about["name"], fields.classes
        (torch.Size([2, 51]), tensor([0, 0]), ['cat/1', 'cat/2'], ['cat', 'dog'])
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        form: Literal["flat", "layers"] = "flat",
        label: Callable[[str], str] | None = None,
    ) -> None:
        if form not in ("flat", "layers"):
            raise ValueError(f"form must be flat or layers, got {form!r}")
        self.path, self.form = check_path(file), form
        self.meta = load_meta(self.path)
        try:
            self.spec: FieldSpec = from_dict(self.meta["spec"])
            count = int(self.meta["modules"])
            self.names = [str(name) for name in self.meta.get("names", map(str, range(count)))]
            psnr = self.meta.get("psnr", [None] * count)
            self._psnr = [float("nan") if value is None else float(value) for value in psnr]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"checkpoint {self.path}: must hold a bank with its spec, but: {error!r:.200}") from None
        if len(self.names) != count or len(self._psnr) != count:
            raise InputError(f"checkpoint {self.path}: must have {count} names, one per module, got {len(self.names)}")
        found = [_folder(name) if label is None else label(name) for name in self.names]
        self.classes = sorted(set(found)) if found and all(found) else []
        numbers = {name: k for k, name in enumerate(self.classes)}
        self.labels = [numbers.get(one, -1) for one in found]
        self._opened: tuple[Any, Any, dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]  # negative ones, and IndexError, which ends a loop over the data set
        tensors = tuple(part[index : index + 1][0] for part in self._slices().values())
        values = torch.cat([t.flatten() for t in tensors]) if self.form == "flat" else tensors
        return values, self.about(index)

    def about(self, index: int) -> dict[str, Any]:
        """Return what item `index` has beside its parameters."""
        return {
            "index": index,
            "name": self.names[index],
            "label": self.labels[index],
            "psnr": self._psnr[index],
        }

    def bank(self, indices: Iterable[int]) -> FieldBank:
        """Return some of the modules as a bank of their own, to evaluate them.

        Raises IndexError if there is none of an index.
        """
        chosen = [range(len(self))[index] for index in indices]
        slices = self._slices()
        tensors = {name: torch.cat([part[i : i + 1] for i in chosen] or [part[:0]]) for name, part in slices.items()}
        with opened(self.path) as file:
            shared = {name: file.get_tensor(name) for name in file.keys() if name.startswith("shared_")}  # noqa: SIM118
        bank = FieldBank(self.spec, len(chosen), tensors["weight.0"].dtype)
        bank.load_state_dict({**tensors, **shared})
        return bank

    def _slices(self) -> dict[str, Any]:
        """Return what parameters are read from, in the order of `FieldBank.stacked`."""
        if self._opened is None:
            context = opened(self.path)
            file = context.__enter__()
            layers, grids = len(self.spec.layer_shapes), len(self.spec.grids)
            names = [f"weight.{l}" for l in range(layers)] + [f"bias.{l}" for l in range(layers)]
            names += [f"grid.{k}" for k in range(grids)]
            # The context is kept: the file is closed as it goes.
            self._opened = context, file, {name: file.get_slice(name) for name in names}
        return self._opened[2]

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are spawned get a copy without the open file, which cannot be sent.
        return {**self.__dict__, "_opened": None}


def _folder(name: str) -> str:
    """Return the first folder in a name that is none of a split."""
    folders = [part for part in name.split("/")[:-1] if part.lower() not in SPLITS]
    return folders[0] if folders else ""
