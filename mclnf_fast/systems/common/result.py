"""The result of a run: a bank with everything that gives its numbers a meaning, in one file of the run folder.

Systems write it, `mclnf_fast.artifacts` gives it to users. The file is a bank as `fields.load_bank` reads it; the rest
stands in its header and, for people, in the JSON file beside it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank, load_bank, save_bank
from mclnf_fast.fields.io import load_tensors
from mclnf_fast.render import Cells, RenderSettings
from mclnf_fast.shading import Shading
from mclnf_fast.spec import FieldSpec, from_dict

FILE = "bank.safetensors"
INITIALIZATION_FILE = "start.safetensors"  # of the runs of version 0.1: an initialization without a bank


@dataclasses.dataclass(frozen=True)
class Frame:
    """The coordinates in which a result lives.

    Attributes:
        axes: their names, in the order of a point's numbers.
        low, high: their range, one number per axis; None if nothing bounds them (then look at the cells).
        unit: what 1.0 is.
        origin: what was taken off the data's coordinates, one number per axis: a point p of this frame is p + origin in
            the files. Empty: nothing was.
    """

    axes: tuple[str, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    unit: str = ""
    origin: tuple[float, ...] = ()

    def to_data(self, points: Tensor) -> Tensor:
        """Return points [..., D] of this frame in the coordinates of the data's files, such as those of a map, float64.

        >>> Frame(("x", "y"), origin=(500000.0, 0.0)).to_data(torch.tensor([[0.25, 1.0]])).tolist()
        [[500000.25, 1.0]]
        """
        points = points.to(torch.float64)
        # In float64: float32 can't hold coordinates of a map to a centimeter, which is why the origin was taken off.
        return points + torch.tensor(self.origin, dtype=torch.float64, device=points.device) if self.origin else points

    def from_data(self, points: Tensor) -> Tensor:
        """Return points [..., D] in the coordinates of the data's files in this frame, float32; best given as float64.

        >>> Frame(("x", "y"), origin=(500000.0, 0.0)).from_data(torch.tensor([500000.25, 1.0])).tolist()
        [0.25, 1.0]
        """
        points = points.to(torch.float64)
        origin = torch.tensor(self.origin or (0.0,), dtype=torch.float64, device=points.device)
        return (points - origin).to(torch.float32)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Frame:
        """Return the frame that `dataclasses.asdict` made into plain data.

        >>> Frame.from_dict({"axes": ["x"], "low": None, "high": None, "unit": "m"}).axes
        ('x',)
        """
        low, high = (None if data.get(key) is None else tuple(data[key]) for key in ("low", "high"))
        return cls(tuple(data["axes"]), low, high, data.get("unit", ""), tuple(map(float, data.get("origin", ()))))


SCENE = Frame(("x", "y", "z"), unit="unit of the data")
PICTURE = Frame(("row", "column"), (0.0, 0.0), (1.0, 1.0), "side of the picture")
TUNING = ("steps", "lr", "batch", "optimizer", "lr_end")  # of an initialization: how it is fine-tuned


@dataclasses.dataclass
class Result:
    """What a run has learned.

    Attributes:
        system: that learned it, as on the command line.
        bank: its modules, and the initialization from which a new one starts (`bank.shared`).
        modules: their names, in the bank's order.
        frame: of the coordinates.
        settings: how rays are sampled and shaded; None if it is not rendered along rays.
        cells: where each module lives, if the modules make one scene.
        scale: lengths of the field in one of the frame.
        tuning: how the initialization is fine-tuned: steps, lr and, along rays, batch, optimizer, lr_end. Empty if the
            system has no fine-tuning.
        frequencies: of the random Fourier features that the modules take in place of the coordinates, [F, D].
        initialization: name of the initialization.
        method: that learned the modules.
        about: of a result that came with the package: what it was learned from, its license, command and commit.
    """

    system: str
    bank: FieldBank
    modules: list[str]
    frame: Frame
    settings: RenderSettings | None = None
    cells: Cells | None = None
    scale: float = 1.0
    tuning: Mapping[str, object] = dataclasses.field(default_factory=dict)
    frequencies: Tensor | None = None
    initialization: str = "meta"
    method: str = ""
    about: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, count in (("modules", len(self.modules)), ("cells", len(self.cells or self.modules))):
            if count != len(self.bank):
                raise InputError(f"{name} must be {len(self.bank)}, one per module of the bank, got {count}")

    @property
    def shading(self) -> Shading | None:
        """How the outputs become pixels; None of images, sound and video, whose outputs are the values."""
        return None if self.settings is None else self.settings.shading

    def write(self, folder: pathlib.Path, name: str = FILE) -> None:
        """Write the result into a run folder, whole or not at all; `name`: of the file."""
        meta: dict[str, object] = {
            "system": self.system,
            "names": list(self.modules),
            "frame": dataclasses.asdict(self.frame),
            "scale": self.scale,
            "tuning": dict(self.tuning),
            "initialization": self.initialization,
            "method": self.method,
        }
        if self.settings is not None:
            settings = self.settings.to_dict()
            meta["shading"] = settings.pop("shading")
            # The machine that reads the result chooses its own backend and chunk.
            meta["settings"] = {key: settings[key] for key in settings if key not in ("backend", "chunk")}
        if self.cells is not None:
            meta["cells"] = {name: box.tolist() for name, box in zip(self.modules, self.cells.boxes.cpu())}
            meta["margin"] = self.cells.margin
        if self.frequencies is not None:
            # float32 -> JSON -> float32 gives the same bits: JSON's numbers are written with all their digits.
            meta["frequencies"] = self.frequencies.cpu().tolist()
        if self.about:
            meta["about"] = dict(self.about)
        save_bank(folder / name, self.bank, **meta)


def read_result(run: str | pathlib.Path, device: torch.device | str = "cpu") -> Result:
    """Return the result in a run folder, on a device.

    Also reads what version 0.1 wrote: the bank of a city, and initializations of the other systems, which then have a
    bank without modules.

    Raises InputError if the folder is not that of a run, has no result yet, or its file is corrupt.
    """
    folder = pathlib.Path(run)
    # The bank first: a folder may hold both, if a run of version 0.1 was resumed by a later one.
    if (folder / FILE).is_file():
        return read_bank(folder / FILE, device)
    if (folder / INITIALIZATION_FILE).is_file():
        return _from_initialization(folder / INITIALIZATION_FILE, device)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"run must be the folder of a run, got {run}: there is {found}")
    if (folder / "config.yaml").is_file():
        raise InputError(
            f"run must be a folder with {FILE} in it, got {run}: that run has none (yet: mclnf-fast run NAME --resume "
            f"{run} finishes it)"
        )
    raise InputError(f"run must be the folder of a run, with {FILE} in it, got {run}")


def read_bank(file: pathlib.Path, device: torch.device | str = "cpu") -> Result:
    """Return the result in a file that `Result.write` wrote.

    Raises InputError if there is none, or it is corrupt.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> Result("audio", FieldBank(FieldSpec(1, 1, 8, 1)), ["window 1"], Frame(("time",))).write(folder, "bank")
    >>> read_bank(folder / "bank").modules
    ['window 1']
    """
    bank = load_bank(file).to(device)
    _, meta = load_tensors(file)
    try:
        boxes: Mapping[str, list[list[float]]] = meta.get("cells", {})
        cells = (
            Cells(torch.tensor(list(boxes.values()), dtype=torch.float32), meta["margin"]).to(device) if boxes else None
        )
        if "system" not in meta:  # version 0.1 wrote banks for cities alone
            method = meta["method"]
            return Result("city", bank, list(boxes), SCENE, _city_settings(file.parent), cells, method=method)
        settings = None
        if "settings" in meta:
            settings = RenderSettings.from_dict({**meta["settings"], "shading": meta["shading"]})
        frequencies = (
            torch.tensor(meta["frequencies"], dtype=torch.float32).to(device) if "frequencies" in meta else None
        )
        return Result(
            meta["system"],
            bank,
            list(meta["names"]),
            Frame.from_dict(meta.get("frame", {"axes": []})),
            settings,
            cells,
            meta.get("scale", 1.0),
            meta.get("tuning", {}),
            frequencies,
            meta.get("initialization", ""),
            meta.get("method", ""),
            meta.get("about", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {file}: must hold the result of a run, but: {error!r}") from None


def _city_settings(folder: pathlib.Path) -> RenderSettings:
    """Samples per ray of a city of version 0.1, whose bank did not hold them."""
    file = folder / "metrics.json"
    try:
        config = json.loads(file.read_text())["config"]
        return RenderSettings(samples_per_ray=config["bins"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"run must be a folder with {file.name} in it, which has the samples per ray of a bank of version 0.1, "
            f"got {folder}: {error!r}"
        ) from None


def _from_initialization(file: pathlib.Path, device: torch.device | str) -> Result:
    tensors, meta = load_tensors(file)
    try:
        spec = from_dict(meta["spec"])
        params = [tensors[str(i)] for i in range(sum(name.isdigit() for name in tensors))]
        bank = FieldBank(spec, 0, init=params).to(device)
        if "settings" not in meta:  # image-start and ct
            frequencies = tensors.get("frequencies")
            return Result(
                meta["system"],
                bank,
                [],
                PICTURE,
                tuning={key: meta["options"][key] for key in ("steps", "lr")},
                frequencies=None if frequencies is None else frequencies.to(device),
            )
        # Objects stand before white; behind a photo is the field itself.
        system = "photos" if meta["settings"].get("background") == "field" else "single-view"
        names = {"rays": "batch"}
        tuning = {
            names.get(key, key): meta[key] for key in ("steps", "lr", "rays", "optimizer", "lr_end") if key in meta
        }
        settings = RenderSettings.from_dict({**meta["settings"], "backend": "auto"})
        return Result(system, bank, [], SCENE, settings, scale=meta.get("scale", 1.0), tuning=tuning)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {file}: must hold an initialization, but: {error!r}") from None


def bank_of(spec: FieldSpec, initialization: Sequence[Tensor], modules: Sequence[Tensor] | None = None) -> FieldBank:
    """Return a bank on the CPU with an initialization [1, ...] and modules [M, ...]; None: without modules.

    >>> from mclnf_fast.fields import initial_parameters
    >>> spec = FieldSpec(2, 1, 8, 1)
    >>> len(bank_of(spec, initial_parameters(spec), initial_parameters(spec, 3)))
    3
    """
    # On the CPU: a file must be readable without the device that it was learned on.
    count = 0 if modules is None else len(modules[0])
    bank = FieldBank(spec, count, init=[p.detach().cpu() for p in initialization])
    with torch.no_grad():
        for parameter, values in zip(bank.stacked, modules or ()):
            parameter.copy_(values)
    return bank
