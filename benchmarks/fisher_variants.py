"""The variants that `fisher_sweep` compares: one switch of the Fisher information at a time, around the default and the
paper's."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mclnf_fast.learn.fisher.scores import FimConfig

Use = Literal["none", "sample", "weight", "both"]
SAMPLE = FimConfig(use="sample")  # the default of `mim`
WEIGHT = FimConfig(use="weight")  # the paper's form, its lambda 1


@dataclasses.dataclass(frozen=True)
class Variant:
    """One run: `mod` (fim None) or `mim`, modules of `scale` times the sweep's width, from a start in whose
    meta-training the inner loop and the outer loss used the scores of `meta` as `inner` and `outer` say."""

    fim: FimConfig | None = None
    scale: float = 1.0
    inner: Use = "none"
    outer: Use = "none"
    meta: FimConfig = SAMPLE

    @property
    def method(self) -> str:
        """Name of the method that is run."""
        return "mod" if self.fim is None else "mim"

    @property
    def start(self) -> tuple[float, Use, Use, FimConfig]:
        """What tells its start from others'."""
        return self.scale, self.inner, self.outer, self.meta


MOD = Variant()


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: `variant`, held against `against`. A variant may stand in several rows."""

    factor: str
    label: str
    variant: Variant
    against: Variant = MOD


def rows() -> list[Row]:
    """Return all of them, in the order of the table."""

    def sample(factor: str, label: str, **changes: object) -> Row:
        return Row(factor, label, Variant(dataclasses.replace(SAMPLE, **changes)))  # type: ignore[arg-type]

    def weight(factor: str, label: str, **changes: object) -> Row:
        return Row(factor, label, Variant(dataclasses.replace(WEIGHT, **changes)))  # type: ignore[arg-type]

    def meta(label: str, inner: Use, outer: Use, fim: FimConfig | None, scores: FimConfig = SAMPLE) -> Row:
        return Row("meta", label, Variant(fim, 1.0, inner, outer, scores))

    return [
        sample("use", "sample (default)"),
        weight("use", "weight (paper's form)"),
        sample("use", "both", use="both"),
        sample("draws", "even, no scores", mix=0.0, refresh=1 << 30),
        sample("draws", "even (default)"),
        sample("draws", "independent", draws="independent"),
        sample("kind", "diagonal (default)"),
        sample("kind", "K-FAC", kind="kfac"),
        sample("kind", "rank 1", kind="rank1"),
        sample("residual", "sample, empirical (default)"),
        sample("residual", "sample, Gauss-Newton", residual="gauss_newton"),
        weight("residual", "weight, empirical (paper's)"),
        weight("residual", "weight, Gauss-Newton", residual="gauss_newton"),
        sample("source", "running F (default)"),
        sample("source", "F of the batch", source="batch"),
        sample("mix", "0.5", mix=0.5),
        sample("mix", "0.8 (default)"),
        sample("mix", "0.9", mix=0.9),
        sample("refresh", "every 4 steps", refresh=4),
        sample("refresh", "every 8 steps", refresh=8),
        sample("refresh", "every 16 (default)"),
        sample("refresh", "every 32", refresh=32),
        weight("form", "1 + λq (default)"),
        weight("form", "λq", form="pure"),
        weight("lambda", "0.1", lam=0.1),
        weight("lambda", "0.3", lam=0.3),
        weight("lambda", "1 (default)"),
        weight("lambda", "10", lam=10.0),
        weight("clip", "2", clip=2.0),
        weight("clip", "10 (default)"),
        weight("clip", "none", clip=None),
        meta("inner loop: weight", "weight", "none", None),
        meta("inner loop: sample", "sample", "none", None),
        meta("outer loss: weight", "none", "weight", None),
        meta("outer loss: sample", "none", "sample", None),
        meta("weight everywhere (paper's)", "weight", "weight", WEIGHT, WEIGHT),
        meta("sample everywhere", "sample", "sample", SAMPLE),
        Row("width", "mod, half", Variant(scale=0.5)),
        Row("width", "mod, twice", Variant(scale=2.0)),
        Row("width", "mim, half; to mod, half", Variant(SAMPLE, 0.5), Variant(scale=0.5)),
        Row("width", "mim (default)", Variant(SAMPLE)),
        Row("width", "mim, twice; to mod, twice", Variant(SAMPLE, 2.0), Variant(scale=2.0)),
    ]


FACTORS = {
    "use": "what the scores are used for",
    "draws": "how samples are drawn (use: sample)",
    "kind": "Fisher matrix (use: sample)",
    "residual": "what is scored",
    "source": "F to score against (use: sample)",
    "mix": "Fisher-guided share of the draws (use: sample)",
    "refresh": "scored (use: sample)",
    "form": "form of the weight (use: weight)",
    "lambda": "λ (use: weight)",
    "clip": "clip (use: weight)",
    "meta": "in meta-training (start of its own; at test time none, but for `everywhere`)",
    "width": "width of the modules",
}
