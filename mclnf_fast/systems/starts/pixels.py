"""What image-start and ct share: tasks of pictures, a field evaluated at every pixel in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from mclnf_fast.data import load_images
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank
from mclnf_fast.learn.params import Params, repeated
from mclnf_fast.metrics import exact_from
from mclnf_fast.report.record import InitializationRecord, Names
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.result import PICTURE, Result
from mclnf_fast.systems.common.run import Run
from mclnf_fast.systems.starts.job import Row, StartJob
from mclnf_fast.systems.starts.pixel_options import PixelConfig
from mclnf_fast.systems.starts.trace import Look
from mclnf_fast.systems.starts.tuning import Tuning

C = TypeVar("C", bound=PixelConfig)


def load_pictures(config: PixelConfig, channels: int, make: Callable[..., SignalSets]) -> SignalSets:
    """Return the pictures of `config.data.path`, or procedural ones: `make(count, size, seed=, test=, validation=)`.

    Raises InputError if a folder is unusable, or leaves none to learn from.
    """
    pictures, folder = config.data, config.data.path
    if folder is None:
        # Few are kept back, and none if nothing would remain to learn from.
        validation = min(4, pictures.procedural - pictures.tests - 1)
        return make(pictures.procedural, pictures.size, seed=config.seed, test=pictures.tests, validation=validation)
    options: dict[str, Any] = {"limit": pictures.limit, "strict": pictures.strict, "resize": pictures.resize or None}
    # Only if set: of a folder the default is a share of its pictures, which the loader counts.
    if pictures.test is not None:
        options["test"] = pictures.test
    sets = load_images(folder, size=pictures.size, channels=channels, seed=config.seed, **options)
    if not len(sets.train):
        raise InputError(f"data: needs pictures to learn from and others to test on, got 0 and {len(sets.test)}")
    return sets


class PixelJob(StartJob[C]):
    """A run over pictures.

    Args:
        run: the run.
        sets: the pictures.
        spec: of the network.
    """

    def __init__(self, run: Run[C], sets: SignalSets, spec: FieldSpec) -> None:
        super().__init__(run, spec)
        self.sets = sets

    @property
    def tasks(self) -> int:
        return len(self.sets.train)

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.data.size

    def announce(self) -> Iterable[str]:
        sets = self.sets
        counts = f"{len(sets.train)} to learn from, {len(sets.test)} to test on"
        yield f"{sets.title}: {counts}, {self.size} x {self.size}"
        yield f"{self.describe_network()}; meta-batch of {self.config.meta.tasks}"
        yield from (f"note: {note}" for note in sets.notes)

    def describe_network(self) -> str:
        """Return the line about the network."""
        raise NotImplementedError

    def task_names(self) -> Names:
        return Names(tuple(self.sets.train.names), test=tuple(self.sets.test.names))

    def exact_from(self) -> Sequence[float]:
        values: list[float] = exact_from(self.sets.test.values).tolist()
        return values

    def score(self, params: Params) -> list[float]:
        """Return the PSNR of each test picture."""
        raise NotImplementedError

    def picture(self, params: Params) -> Tensor:
        """Return the test pictures as modules [T, ...] have them: uint8 [T, H, W, C]."""
        raise NotImplementedError

    def result(self, bank: FieldBank, modules: list[str]) -> Result:
        return Result(self.config.kind, bank, modules, PICTURE, tuning=self.tuning_options())

    def tuning_options(self) -> dict[str, object]:
        """Return how the initialization is fine-tuned by who loads it."""
        raise NotImplementedError

    def follow(
        self, name: str, initialization: Params, tuning: Tuning, keep: tuple[int, ...] = (0,)
    ) -> tuple[dict[str, Tensor], Row]:
        """Return the state and the row of an initialization fine-tuned on every test picture.

        keep: steps after which the pictures are kept in the folder's predictions, beside the last.
        """
        steps = tuning.steps
        # A step beyond the last is left out, so that short trials need no other list of steps.
        kept = tuple(sorted({k for k in keep if 0 <= k < steps} | {steps}))
        before = repeated(initialization, len(self.sets.test))
        trace = self.trace(name, before, tuning, self.score, Look(self.picture, kept))
        assert trace.pictures is not None
        self.folder.save_values(name, trace.pictures)
        losses = trace.losses
        row: Row = {
            "curve": trace.curve,
            "fit": {str(k): losses[k].tolist() for k in sorted({0, *kept, *map(int, trace.curve)}) if k < steps},
            "kept": list(kept),
            "seconds": trace.seconds,
            "after": trace.curve[str(steps)],
        }
        tensors = {f"{self.kept}.{i}": p for i, p in enumerate(trace.params)}
        # With the modules: a process that resumes this run writes them into the result without fine-tuning again.
        return {"losses": losses, **tensors}, row

    def completed(self, record: InitializationRecord, title: str) -> InitializationRecord:
        """Return a record with what both systems add."""
        return replace(
            record, title=title[:1].upper() + title[1:], notes=tuple(self.sets.notes), size=(self.size, self.size)
        )
