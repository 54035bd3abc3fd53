"""The one door to the result of a run: load it, render it, evaluate it, add to it, fine-tune it.

Render a finished city from a new camera:

    import math
    import torch
    import mclnf_fast as mf
    from mclnf_fast.render import Cameras, look_at

    city = mf.load("outputs/city/2026-01-31_120000")
    low, high = city.cells.hull()                                       # the box of the city, in scene units
    middle, size = (low + high)[None] / 2, float((high - low).max())
    eye = middle + size * torch.tensor([[-0.4, -0.4, 0.8]])             # from above, z is up
    pose = look_at(eye, middle)                                         # [1, 3, 4], camera to world
    focal = 320 / math.tan(math.radians(30))
    camera = Cameras(pose, focal, focal, 320, 240, 640, 480)
    picture = city.render(camera)[0]                                    # uint8 [480, 640, 3]
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mclnf_fast.errors import InputError
from mclnf_fast.fields.fourier import fourier_features
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.render import Cameras, Cells, RenderSettings, render_views
from mclnf_fast.shading import NamedBackground
from mclnf_fast.systems.common.pretrained import pretrained_result
from mclnf_fast.systems.common.result import Frame, Result, bank_of, read_result
from mclnf_fast.systems.ct.field import fine_tune_slice, slice_values
from mclnf_fast.systems.image_start.field import fine_tune_image, image_values
from mclnf_fast.systems.starts.ray_field import RayField, RayInitialization, as_bytes, between

__all__ = ["Frame", "Learned", "interpolate", "load", "pretrained"]

RAYS = ("single-view", "photos")
ADAPTED = {"single-view": "pictures and cameras", "photos": "pictures and cameras", "image-start": "an image",
           "ct": "a sinogram and angles"}  # fmt: skip


@dataclasses.dataclass
class Learned(Result):
    """The result of a run, whichever system learned it.

    Attributes:
        system: that learned it, as on the command line.
        bank: its modules, and the initialization from which a new one starts (`bank.shared`).
        modules: their names, in the bank's order.
        shading: how outputs become pixels; None of images, sound and video, whose outputs are the values.
        cells: where each module lives, if the modules make one scene (a city); None otherwise.
        frame: the coordinates in which cameras and points are given.
        scale: lengths of the field in one of the frame.
        settings: how rays are sampled and shaded; None if nothing is rendered along rays.

    Example, a result that was built by hand:
        >>> from mclnf_fast import FieldBank, FieldSpec
        >>> bank = FieldBank(FieldSpec(1, 1, 8, 1), modules=2)
        >>> learned = Learned("audio", bank, ["first", "second"], Frame(("time",)))
        >>> learned.evaluate(torch.zeros(3, 1), torch.tensor([0, 1, 1])).shape
        torch.Size([3, 1])
    """

    @property
    def device(self) -> torch.device:
        """Where the modules are."""
        return self.bank.shared[0].device

    @torch.no_grad()
    def render(
        self, cameras: Cameras, background: NamedBackground | tuple[float, float, float] | None = None
    ) -> Tensor:
        """Return the pictures that cameras take.

        Args:
            cameras: V, with positions in the frame's units.
            background: behind everything, in place of the one that was learned with: a color in 0 ... 1, or a name of
                `Shading.background`.

        Returns:
            uint8 [V, H, W, 3], sRGB: of a city all modules together, of one object that alone; of M objects
            [M, V, H, W, 3].

        Raises InputError if the result is not rendered along rays, or has no module.
        """
        settings = self._ray_settings("render")
        if background is not None:
            shading = dataclasses.replace(settings.shading, background=background)
            settings = dataclasses.replace(settings, shading=shading)
        cameras = self._cameras(cameras)
        # A scene is one picture through all modules; objects are one picture each.
        if self.cells is not None:
            return as_bytes(render_views(self.bank, cameras, settings, self.cells).color)
        pictures = RayField(self.bank.stacked, self.bank.spec, settings).render(cameras)
        return pictures[0] if len(self.bank) == 1 else pictures

    @torch.no_grad()
    def render_each(self, cameras: Cameras) -> Tensor:
        """Return the picture of every object from its own camera: uint8 [M, H, W, 3] of M cameras.

        Raises InputError if the modules are no objects, or there are not as many cameras.
        """
        settings = self._ray_settings("render_each")
        if self.cells is not None:
            raise InputError(
                f"render_each serves results of {' and '.join(RAYS)}, got one of {self.system}: use render"
            )
        return RayField(self.bank.stacked, self.bank.spec, settings).render_each(self._cameras(cameras))

    @torch.no_grad()
    def evaluate(self, x: Tensor, module_ids: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return the outputs of the field at points, before any shading.

        Args:
            x: points [N, D] in the coordinates of the frame; [N, D + 3] with unit view directions if the shading has
                `view_directions`.
            module_ids: int64 [N], the module that evaluates each point; None: the one whose cell holds the point (the
                one with the largest share if cells overlap), or the only one.

        Returns: [N, out_dim]; NaN at points that no cell holds.

        Raises InputError if the shapes do not fit, or the module of a point is not known.
        """
        x = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        directions = 3 if self.shading is not None and self.shading.view_directions else 0
        axes = len(self.frame.axes)
        if x.dim() != 2 or x.shape[1] != axes + directions:
            raise InputError(f"x must be [N, {axes + directions}] ({', '.join(self.frame.axes)}), got {list(x.shape)}")
        self._check_modules("evaluate")
        points, rest = x[:, :axes], x[:, axes:]
        if module_ids is None:
            module_ids = self._owners(points)
        else:
            module_ids = torch.as_tensor(module_ids, dtype=torch.int64, device=self.device)
        if module_ids.shape != x.shape[:1]:
            raise InputError(f"module_ids must be [N] = [{len(x)}], got {list(module_ids.shape)}")
        # Points that no cell holds are left out and come back as NaN: a made-up value would look like a learned one.
        inside = module_ids >= 0
        ids = module_ids[inside]
        local = torch.cat((self._local(points[inside], ids), rest[inside]), 1)
        outputs = self.bank(local, module_ids=ids)
        result = outputs.new_full((len(x), outputs.shape[1]), torch.nan)
        result[inside] = outputs
        return result

    @torch.no_grad()
    def picture(self, height: int, width: int | None = None) -> Tensor:
        """Return the pictures of an image-start or ct result at any number of pixels.

        Args:
            height, width: in pixels; a slice is square.

        Returns: float32 [M, height, width, C] in 0 ... 1 of M modules.

        Raises InputError if the result is another one, or the size is below 1.
        """
        if self.system not in ("image-start", "ct"):
            raise InputError(f"picture serves results of image-start and ct, got one of {self.system}")
        width = height if width is None else width
        if height < 1 or width < 1:
            raise InputError(f"height and width must be at least 1, got {height} and {width}")
        self._check_modules("picture")
        if self.frequencies is None:
            return image_values(self.bank.stacked, self.bank.spec, height, width)
        if height != width:
            raise InputError(f"height and width of a slice must be the same, got {height} and {width}")
        return slice_values(self.bank.stacked, self.bank.spec, self.frequencies, height)[..., None]

    def append(
        self, state: Sequence[Tensor] | nn.Module | None = None, *, name: str | None = None, box: Tensor | None = None
    ) -> int:
        """Add a module and return its id; the others stay as they are, bit for bit.

        Args:
            state: its parameters, as `FieldBank.append` takes them; None: the initialization.
            name: default: its number.
            box: its cell [2, 3] in the frame's units, if the modules make one scene.

        Raises InputError if a box is missing or too much; ValueError if the state does not fit.
        """
        if (box is None) != (self.cells is None):
            wanted = "None, since modules have no cells" if self.cells is None else "the [2, 3] cell of the new module"
            raise InputError(f"box must be {wanted}, got {box}")
        cells = self.cells
        if cells is not None and box is not None:
            edges = torch.as_tensor(box, dtype=torch.float32)
            cells = cells.append(edges) if len(cells) else Cells(edges[None])
        # Checked before the bank is touched: a refused box leaves the result as it was.
        index = self.bank.append(state)
        self.cells = cells
        self.modules.append(str(index) if name is None else name)
        return index

    def adapt(
        self, data: object, view: object = None, *, steps: int | None = None, seed: int = 0, name: str = "adapted"
    ) -> Learned:
        """Return a result with one module: the initialization, fine-tuned on data that the run has not seen.

        Args:
            data: single-view and photos: a picture uint8 [H, W, 4] or [H, W, 3], or several [V, H, W, ...].
                image-start: an image [H, W, C], uint8 or in 0 ... 1. ct: a sinogram [V, N].
            view: single-view and photos: `Cameras`, one per picture, in the frame's units. ct: the angles [V] in
                radians. image-start: nothing.
            steps: default: those of the run.
            seed: of the rays that are drawn.
            name: of the module.

        Raises InputError if the system has no such fine-tuning, or the data do not fit.
        """
        if self.system not in ADAPTED:
            raise InputError(f"adapt serves results of {', '.join(ADAPTED)}, got one of {self.system}")
        count = self.tuning["steps"] if steps is None else steps
        if not isinstance(count, int) or count < 0:
            raise InputError(f"steps must be at least 0, got {count}")
        if (view is None) != (self.system == "image-start"):
            raise InputError(f"data and view must be {ADAPTED[self.system]} of a result of {self.system}, got {view=}")
        spec, initial = self.bank.spec, self.bank.shared
        if self.system in RAYS:
            start = RayInitialization(initial, spec, self._ray_settings("adapt", 0), self.scale, **self.tuning)  # type: ignore[arg-type]  # as `RayInitialization.options` wrote them
            params = start.adapt(data, view, steps=count, seed=seed)
        elif self.frequencies is not None:
            kind: StepKind = "adam" if self.tuning.get("optimizer") == "adam" else "sgd"
            params = fine_tune_slice(initial, spec, self.frequencies, (data, view), count, self._rate(), kind)
        else:
            params = fine_tune_image(initial, spec, data, count, self._rate())
        return self._with(params, [name])

    def _with(self, params: Params, names: list[str]) -> Learned:
        bank = bank_of(self.bank.spec, self.bank.shared, params).to(self.device)
        return dataclasses.replace(self, bank=bank, modules=names)

    def _rate(self) -> float:
        return float(self.tuning["lr"])  # type: ignore[arg-type]  # as a run has written it

    def _ray_settings(self, caller: str, least: int = 1) -> RenderSettings:
        if self.settings is None:
            raise InputError(f"{caller} serves results that are rendered along rays, got one of {self.system}")
        self._check_modules(caller, least)
        return self.settings

    def _check_modules(self, caller: str, least: int = 1) -> None:
        if len(self.bank) < least:
            hint = ": fine-tune its initialization with adapt, or use append" if self.system in ADAPTED else ""
            raise InputError(f"{caller} needs a result with at least {least} module, got none{hint}")

    def _cameras(self, cameras: Cameras) -> Cameras:
        if not isinstance(cameras, Cameras):
            raise InputError(f"cameras must be mclnf_fast.render.Cameras, got {type(cameras).__name__}")
        return cameras.in_units(self.scale).to(self.device)

    def _owners(self, points: Tensor) -> Tensor:
        """Return the module of each point [N]; -1 if no cell holds it."""
        if self.cells is None:
            if len(self.bank) != 1:
                raise InputError(f"module_ids must name one of the {len(self.bank)} modules for each point, got None")
            return torch.zeros(len(points), dtype=torch.int64, device=self.device)
        return self.cells.strongest(points)

    def _local(self, points: Tensor, module_ids: Tensor) -> Tensor:
        """Return the inputs of the modules [N, ...] at points of the frame."""
        if self.frequencies is not None:
            return fourier_features(points, self.frequencies)
        if self.cells is None:
            return points * self.scale
        return (points - self.cells.centers[module_ids]) / self.cells.halves[module_ids]


def load(run: str | pathlib.Path, device: torch.device | str = "cpu") -> Learned:
    """Return the result in the folder of a run.

    Args:
        run: the folder, as the run has reported it; of any system, also of one that was written by version 0.1.
        device: where its modules are to be.

    Raises InputError if the folder is none of a run, has no result yet, or holds a corrupt file.

    >>> import tempfile
    >>> from mclnf_fast import FieldBank, FieldSpec
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> Result("audio", FieldBank(FieldSpec(1, 1, 8, 1)), ["window 1"], Frame(("time",))).write(folder)
    >>> load(folder).modules
    ['window 1']
    """
    result = read_result(run, device)
    return Learned(**{field.name: getattr(result, field.name) for field in dataclasses.fields(result)})


def pretrained(name: str, device: torch.device | str = "cpu") -> Learned:
    """Return an initialization that comes with the package, to be fine-tuned with `adapt` or taken by `append`.

    Args:
        name: faces (image-start, portraits), phantoms (ct, head phantoms), face_patches (image, a quarter of a
            portrait), speech (audio, a quarter of a second).
        device: where it is to be.

    Returns: a result without modules; `about` says what it was learned from, under which license, and by which command.

    Raises InputError if there is none of this name.

    >>> faces = pretrained("faces")
    >>> faces.adapt(torch.rand(32, 32, 3), steps=2).picture(64).shape
    torch.Size([1, 64, 64, 3])
    >>> faces.about["license"]
    'works of the US Congress: public domain'
    """
    result = pretrained_result(name, device)
    return Learned(**{field.name: getattr(result, field.name) for field in dataclasses.fields(result)})


def interpolate(a: Learned, b: Learned, weights: float | Sequence[float]) -> Learned:
    """Return the modules at `weights` of the straight line from the module of `a` to that of `b`.

    Between two photos of a place, fine-tuned from one initialization, the appearance lies between theirs
    (arXiv 2012.02189, sec. 5).

    Args:
        a, b: one module each, of one architecture and one scale.
        weights: 0 is `a` and 1 is `b`, bit for bit; several: as many modules.

    Raises InputError if the results do not fit each other, or a weight is not finite.

    >>> from mclnf_fast import FieldBank, FieldSpec
    >>> a, b = (Learned("audio", FieldBank(FieldSpec(1, 1, 8, 1)), ["one"], Frame(("time",))) for _ in range(2))
    >>> interpolate(a, b, [0.0, 0.5, 1.0]).modules
    ['0.0', '0.5', '1.0']
    """
    if (a.bank.spec, a.settings, a.scale) != (b.bank.spec, b.settings, b.scale):
        raise InputError(f"a and b must have one architecture, settings and scale, got {a.bank.spec} and {b.bank.spec}")
    params = between(a.bank.stacked, b.bank.stacked, weights)
    values = [weights] if isinstance(weights, float | int) else list(weights)
    return a._with(params, [str(float(weight)) for weight in values])
