"""A case of several variants: the same op with some sizes changed, each a contender of ours, all in turn."""

from __future__ import annotations

from benchmarks import peers, work
from benchmarks.cases import Case
from benchmarks.contender import Contender, Outputs, Unsupported
from benchmarks.work import Work


class Variants(Work):
    """The problems of a case's variants; contenders are called `name` and `peer, name`."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.works: dict[str, Work] = {}
        for variant in case.variants:
            changed = {key: value for key, value in variant.items() if key != "name"}
            self.works[variant["name"]] = work.make(case, **changed)
        first = next(iter(self.works.values()))
        self.flops, self.moved, self.points = first.flops, first.moved, first.points

    def contenders(self, skip: tuple[str, ...] = ()) -> tuple[list[Contender], dict[str, str]]:
        """Ours of every variant, then the peers of every variant, and who takes no part and why."""
        found = [self._part(name, name, problem.ours()[0], problem) for name, problem in self.works.items()]
        absent: dict[str, str] = {}
        for peer in self.case.peers:
            reason = "left out of a quick run" if peer in skip else peers.missing(peer)
            for name, problem in self.works.items():
                said: str | None = reason
                if said is None:
                    try:
                        contender = peers.contender(peer, self.case.op, problem)
                        found.append(self._part(f"{peer}, {name}", name, contender, problem))
                    except Unsupported as error:
                        said = str(error)
                if said is not None:
                    absent[peer if reason else f"{peer}, {name}"] = said
        return found, absent

    @staticmethod
    def _part(shown: str, variant: str, contender: Contender, problem: Work) -> Contender:
        contender.name, contender.part, contender.variant = shown, f"{variant}:", variant
        contender.flops, contender.moved = problem.flops, problem.moved
        return problem.prepared(contender)

    def ours(self) -> list[Contender]:
        return self.contenders(self.case.peers)[0]

    def truth(self) -> Outputs:
        return {f"{name}:{key}": t for name, problem in self.works.items() for key, t in problem.truth().items()}

    def verify(self) -> dict[str, float]:
        return {f"{name}:{key}": t for name, problem in self.works.items() for key, t in problem.verify().items()}
