"""A contender of a case: a callable to time, and how to read its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

Outputs = dict[str, Tensor]


def as_given(result: Any) -> Outputs:
    """Return the result of `run` where it is a mapping of names to tensors already."""
    return dict(result)


@dataclasses.dataclass
class Contender:
    """One way to solve a problem.

    name: how it is shown. run: what is timed; it returns when the work is done, on a GPU when it is queued. outputs:
    turns what `run` returned into named tensors, laid out like the truth; not timed. check: computes those tensors
    where `run` alone does not show them (a training step). share: the part of the problem that `run` does, for peers
    that would take minutes; it then does the first rows of every output. part: prefix, such as `M=16:`, of the truth's
    names that are its own; without one, the names without a prefix. only: the outputs that it has, where it does less
    than the problem asks. peer, variant: whose it is (empty: ours) and which of a case's variants it does. flops,
    moved: operations and bytes of the whole problem, None if the case's own count holds. note: what a reader must
    know.
    """

    name: str
    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs] = as_given
    check: Callable[[], Outputs] | None = None
    share: float = 1.0
    part: str = ""
    only: tuple[str, ...] = ()
    peer: str = ""
    variant: str = ""
    flops: float | None = None
    moved: float | None = None
    note: str = ""

    def values(self) -> Outputs:
        """Return the outputs that are compared with the truth."""
        return self.check() if self.check is not None else self.outputs(self.run())


class Unsupported(Exception):
    """A peer can't do a problem at all; the message says why."""
