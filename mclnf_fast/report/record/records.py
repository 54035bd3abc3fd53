"""The records of the systems: one base, and a kind each for the city, for signals and for initializations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mclnf_fast.report.record.codec import to_json
from mclnf_fast.report.record.parts import (
    BlockFacts,
    Comparison,
    Figure,
    MetaTraining,
    Names,
    Orbit,
    Photos,
    Picture,
    Tried,
    Trivial,
    Views,
)

VERSION = 2  # of metrics.json; raise it whenever a field changes its name, its type or its meaning


@dataclass(frozen=True, kw_only=True)
class Record:
    """The facts of a run that every system records.

    Attributes:
        system: the command's name of the system, such as "city".
        command: the command that made the run.
        machine: processor, threads and Python; `versions`: package -> version; `backends`: op -> backend.
        config: the options, as in config.yaml.
        title: of the data; `notes`: on the data and the run; `names`: of its signals, objects or photos.
        pictures: in the order in which they are shown.
        phases: phase -> seconds, those of resumed processes included; `seconds_total`: their sum.

    >>> record = CityRecord(system="city", title="a city", tasks=("north", "south"))
    >>> record.to_json()["tasks"]
    ['north', 'south']
    """

    kind: ClassVar[str]

    system: str
    command: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    backends: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    title: str = ""
    notes: tuple[str, ...] = ()
    names: Names = field(default_factory=Names)
    pictures: tuple[Picture, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    seconds_total: Figure = None

    def to_json(self) -> dict[str, object]:
        """Return the content of metrics.json: `version` and `kind` first, so that a reader can stop there."""
        fields = to_json(self)
        assert isinstance(fields, dict)
        return {"version": VERSION, "kind": self.kind, **fields}


@dataclass(frozen=True)
class CityResults:
    """The results of one method on the blocks of a city; PSNR in dB of held-out views.

    Attributes:
        matrix: R[k][i], block i after block k; None for blocks not learned yet, and for all but the last row of a
            method that meets all blocks at once.
        psnr_mean, ssim_mean: over the blocks, after the last one.
        psnr_first_task_after_own, psnr_first_task_after_all: of the first block, when it was learned and at the end.
        forgetting: mean over the blocks of R[k][k] - R[last][k]; None for a method that meets all blocks at once.
        psnr_at_step: step on a block -> mean over the blocks; `psnr_at_step_by_task`: the same block by block.
        seconds: of the training steps; `evaluation_seconds`: of the scoring in between.
        parameters: of all modules, or of the one network.
        steps_per_block, steps_total: gradient steps; `rays`: that they are trained on, replayed ones included;
            `operations`: 6 per parameter and sample of a ray (2 forward, 4 backward), without scores and penalties.
        category: of the method (see `report.page.methods.CATEGORIES`).
        fisher: how Fisher information was used; "none" if it was not.
    """

    psnr_mean: Figure = None
    ssim_mean: Figure = None
    psnr_first_task_after_own: Figure = None
    psnr_first_task_after_all: Figure = None
    forgetting: Figure = None
    psnr_at_step: Mapping[int, Figure] = field(default_factory=dict)
    psnr_at_step_by_task: tuple[Mapping[int, Figure], ...] = ()
    matrix: tuple[tuple[Figure, ...], ...] = ()
    seconds: Figure = None
    evaluation_seconds: Figure = None
    parameters: int | None = None
    steps_per_block: int | None = None
    steps_total: int | None = None
    rays: int | None = None
    operations: int | None = None
    category: str = ""
    fisher: str = "none"


@dataclass(frozen=True, kw_only=True)
class CityRecord(Record):
    """A city learned block by block.

    Attributes:
        tasks: the blocks, in the order in which they were learned; `block_facts`: block -> its views and its box.
        initializations: how `modules`, `joint` and `oml` were meta-learned, those that the methods needed.
        methods: method -> its results.
        across: method -> PSNR in dB of views over the whole city.
        comparison: `mim` against `mod`, if the run has both.
    """

    kind: ClassVar[str] = "city"

    tasks: tuple[str, ...] = ()
    initializations: Mapping[str, MetaTraining] = field(default_factory=dict)
    methods: Mapping[str, CityResults] = field(default_factory=dict)
    across: Mapping[str, Figure] = field(default_factory=dict)
    comparison: Comparison | None = None
    block_facts: Mapping[str, BlockFacts] = field(default_factory=dict)

    @property
    def trivial(self) -> float | None:
        """Mean over the blocks of `BlockFacts.mean_color`; None if it was not measured."""
        values = [facts.mean_color for facts in self.block_facts.values() if facts.mean_color is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class FineCurve:
    """PSNR at more steps than `SignalResults.curve` has: `psnr` [steps, signals] in dB at `steps`."""

    steps: tuple[int, ...] = ()
    psnr: tuple[tuple[Figure, ...], ...] = ()


@dataclass(frozen=True)
class SignalResults:
    """The results of one method with one seed; a list of S figures has one per test signal.

    Attributes:
        curve: measure -> steps per task -> [S], of the whole signal after the last task.
        fine: PSNR at more steps, of methods that pass through them.
        matrix: R[k][i] [S], PSNR in dB of task i after task k; None for a method that meets all tasks at once.
        before: [S] per task, PSNR of the initialization.
        seconds, steps: of the training with the most steps; `seconds_per_step`: their ratio.
        samples, operations: of one signal over all its steps; operations are 6 per parameter and sample, those of
            forward and backward alone.
        points_per_step: samples that one step is taken on.
        peak_bytes_per_step: of files of former versions, whose figure was wrong; nothing shows it.
        parameters: of one signal, all its modules.
        category: of the method (see `report.page.methods.CATEGORIES`).
    """

    curve: Mapping[str, Mapping[int, tuple[Figure, ...]]] = field(default_factory=dict)
    fine: FineCurve | None = None
    matrix: tuple[tuple[tuple[Figure, ...], ...], ...] | None = None
    before: tuple[tuple[Figure, ...], ...] = ()
    seconds: Figure = None
    steps: int | None = None
    samples: int | None = None
    operations: Figure = None
    points_per_step: Figure = None
    parameters: int | None = None
    category: str = ""
    seconds_per_step: Figure = None
    peak_bytes_per_step: Figure = None


@dataclass(frozen=True)
class SeedResults:
    """The results of one seed: how its initializations were meta-learned, and method -> results."""

    initializations: Mapping[str, MetaTraining] = field(default_factory=dict)
    methods: Mapping[str, SignalResults] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SignalRecord(Record):
    """Images, videos or sound learned task by task.

    Attributes:
        tasks: the names of the tasks that each signal is cut into.
        measures: the metrics, PSNR first.
        steps: the logged steps per task.
        exact_from: PSNR in dB from which a test signal counts as exact, one figure each: what its file can hold.
        trivial: what has been learned must beat it; None of runs before it was measured.
        grid: samples of a signal along its axes; `rate`: samples per second of sound, frames per second of video.
        seeds: seed -> its results.
    """

    kind: ClassVar[str] = "signals"

    tasks: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    exact_from: tuple[Figure, ...] = ()
    trivial: Trivial | None = None
    grid: tuple[int, ...] = ()
    rate: Figure = None
    seeds: Mapping[str, SeedResults] = field(default_factory=dict)


@dataclass(frozen=True)
class InitializationResults:
    """The results of one initialization on the T test tasks (objects, photos, images or slices); [T] in dB each.

    Attributes:
        curve: step -> [T], what the system scores while it fine-tunes.
        after: [T] after the last step, on all that is scored.
        seconds: of the steps.
        input: [T] on what was learned from; `whole`, `others`: [T] of fields learned from the whole photo, on it and
            from the places of other photos.
        between, faded: weight -> PSNR per pair of photos, of the field between two fields' weights, and of their two
            pictures faded into each other.
        fit: step -> loss [T]; `kept`: the steps whose pictures are kept.
        lr, optimizer, steps: of the fine-tuning, if they differ between the initializations; `density_bias`: what was
            added to the raw density everywhere before it.
        distilled_steps: Adam steps in which it was distilled from the meta-learned one; `residual`: mean squared
            difference from what it should put out, over the variance of the meta-learned one's outputs.
        reached: [T] first step with the PSNR of the meta-learned initialization after its inner steps, None if no step
            has it; `reached_mean`: the same of the mean PSNR.
    """

    curve: Mapping[int, tuple[Figure, ...]] = field(default_factory=dict)
    after: tuple[Figure, ...] = ()
    seconds: Figure = None
    input: tuple[Figure, ...] | None = None
    whole: tuple[Figure, ...] | None = None
    others: tuple[Figure, ...] | None = None
    between: Mapping[str, tuple[Figure, ...]] | None = None
    faded: Mapping[str, tuple[Figure, ...]] | None = None
    fit: Mapping[int, tuple[Figure, ...]] | None = None
    kept: tuple[int, ...] | None = None
    lr: Figure = None
    density_bias: Figure = None
    optimizer: str | None = None
    steps: int | None = None
    distilled_steps: int | None = None
    residual: Figure = None
    reached: tuple[int | None, ...] | None = None
    reached_mean: int | None = None


@dataclass(frozen=True, kw_only=True)
class InitializationRecord(Record):
    """A meta-learned initialization beside others: single-view fields, photos of a place, images, CT slices.

    Attributes:
        steps: the logged steps of the fine-tuning.
        meta: how the initialization was meta-learned; its parameters alone if it was not.
        trials: how the rate of each initialization was chosen; None: it was given.
        initializations: name -> its results on the test tasks, in the order in which they are shown.
        size: (height, width) of the pictures in pixels.
        exact_from: PSNR in dB from which a test task counts as exact, one figure each: what its file can hold.
        views, orbit: of single-view fields; `photos`: of photos of a place; `projections`: per CT slice;
            `inner_steps`: of the meta-training of images.
    """

    kind: ClassVar[str] = "initializations"

    steps: tuple[int, ...] = ()
    meta: MetaTraining = field(default_factory=MetaTraining)
    trials: Tried | None = None
    initializations: Mapping[str, InitializationResults] = field(default_factory=dict)
    size: tuple[int, ...] = ()
    exact_from: tuple[Figure, ...] = ()
    views: Views | None = None
    orbit: Orbit | None = None
    photos: Photos | None = None
    projections: int | None = None
    inner_steps: int | None = None
