"""The one converter for `metrics.json` of earlier versions, and of runs from before it had one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mclnf_fast.errors import InputError

SIGNALS = ("image", "video", "audio")
_CITY = {"blocks": "tasks", "summary": "methods", "city": "across", "starts": "initializations"}
_SIGNALS = {"signals": "names", "metrics": "measures"}
_INITIALIZATIONS = {"objects": "names", "starts": "initializations"}


def current(data: Mapping[str, object], place: str) -> tuple[str, dict[str, object]]:
    """Return the kind of the record, and the fields of version 1, of a file without a version.

    What is null or missing gets its default. Raises: InputError that names the file, if it is none of a run.

    >>> current({"system": "city", "blocks": ["north"]}, "metrics.json")
    ('city', {'system': 'city', 'tasks': ['north']})
    """
    known = {str(key): value for key, value in data.items() if value is not None}
    system = known.get("system")
    # Without `system` the kind is known by a field that the others do not have.
    if system == "city" or (system is None and "summary" in known):
        return "city", _city({**known, "system": "city"})
    if system in SIGNALS or (system is None and "seeds" in known):
        return "signals", _signals({**known, "system": system or "signal"})
    if system is not None:
        return "initializations", _initializations(known)
    raise InputError(f"{place} must be that of a run, but holds neither system, summary nor seeds")


def second(kind: str, fields: dict[str, object]) -> dict[str, object]:
    """Return the fields of version 2 of those of version 1.

    `matched` was distilled to the learned initialization's mean output, which `constant` is now; under its old name a
    page would show it as one that is distilled to the learned function.

    >>> second("initializations", {"initializations": {"matched": {}, "meta": {}}})
    {'initializations': {'constant': {}, 'meta': {}}}
    """
    rows = fields.get("initializations")
    if kind != "initializations" or not isinstance(rows, Mapping):
        return fields
    return {**fields, "initializations": _renamed(rows, {"matched": "constant"})}


def _city(data: dict[str, object]) -> dict[str, object]:
    fields = _renamed(data, _CITY)
    starts = _mapping(data.get("starts"))
    if "meta" in data:  # the first releases had no `starts`
        starts = {**starts, "modules": data["meta"]}
    if starts:
        fields["initializations"] = {k: _meta(v) for k, v in starts.items() if v is not None}
    fields.pop("meta", None)
    _clean(fields, "methods", _without_null)
    return fields


def _signals(data: dict[str, object]) -> dict[str, object]:
    fields = _renamed(data, _SIGNALS)
    if "names" in fields:
        fields["names"] = _without_null(fields["names"])
    _clean(fields, "seeds", _seed)
    return fields


def _seed(data: object) -> object:
    if not isinstance(data, Mapping):
        return data
    fields = _renamed({str(k): v for k, v in data.items() if v is not None}, {"starts": "initializations"})
    _clean(fields, "initializations", _meta)
    _clean(fields, "methods", _without_null)
    return fields


def _initializations(data: dict[str, object]) -> dict[str, object]:
    fields = _renamed(data, _INITIALIZATIONS)
    if isinstance(fields.get("views"), int):  # of CT: how many projections of a slice
        fields["projections"] = fields.pop("views")
    for key in ("views", "photos"):
        size = _mapping(fields.get(key)).get("size")
        if size is not None:
            fields["size"] = size
    if fields.get("orbit") == {}:
        del fields["orbit"]
    if "names" in fields:
        fields["names"] = _without_null(fields["names"])
    _clean(fields, "initializations", _without_null)
    if "meta" in fields:
        fields["meta"] = _meta(fields["meta"])
    return fields


def _meta(data: object) -> object:
    """Return the meta-training of an initialization; `from` is a keyword of Python, `steps` was the city's word."""
    if not isinstance(data, Mapping):
        return data
    known = {str(k): v for k, v in data.items() if v is not None}
    return _renamed(known, {"from": "source", "steps": "outer_steps"})


def _renamed(data: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    return {names.get(key, key): value for key, value in data.items()}


def _without_null(data: object) -> object:
    """Return a row without the fields that were null; anything else as it is, to be refused by its type."""
    return {k: v for k, v in data.items() if v is not None} if isinstance(data, Mapping) else data


def _clean(fields: dict[str, object], key: str, convert: Callable[[object], object]) -> None:
    """Convert the values of one mapping in place; rows that are null are dropped."""
    rows = fields.get(key)
    if isinstance(rows, Mapping):
        fields[key] = {str(k): convert(v) for k, v in rows.items() if v is not None}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
