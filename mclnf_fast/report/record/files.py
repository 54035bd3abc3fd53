"""Records read from `metrics.json`, of this version or of earlier ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mclnf_fast.errors import InputError
from mclnf_fast.report.record.codec import from_json
from mclnf_fast.report.record.former import current, second
from mclnf_fast.report.record.records import VERSION, CityRecord, InitializationRecord, Record, SignalRecord

KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (CityRecord, SignalRecord, InitializationRecord)}


def read_record(file: str | Path) -> Record:
    """Return the record that a `metrics.json` holds.

    Raises: InputError that names the file, and the field if one is wrong, if the file is missing or corrupt, is of a
    version that this program does not know, or has a field that is missing, unknown or of another type.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "metrics.json"
    >>> file.write_text(json.dumps(CityRecord(system="city", title="a city").to_json())) > 0
    True
    >>> read_record(file).title
    'a city'
    """
    path = Path(file)
    try:
        # json.loads takes NaN and Infinity, which files of before hold.
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} must be JSON of few levels, but is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be JSON, but: {error}") from None
    return record_from_json(data, str(path))


def record_from_json(data: object, place: str = "metrics.json") -> Record:
    """Return the record of parsed JSON. Raises: as `read_record`; `place` names the file in messages.

    >>> record_from_json({"version": 2, "kind": "city", "system": "city", "title": "a city"}).title
    'a city'
    >>> record_from_json({"version": 3})
    Traceback (most recent call last):
        ...
    mclnf_fast.errors.InputError: metrics.json: version must be 2 or 1 (or none, of runs before it), got 3
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{place} must hold a mapping, got {type(data).__name__}")
    if "version" not in data:
        former, fields = current(data, place)
        # Files without a version were written by several releases, and carry notes of benchmarks.
        return from_json(KINDS[former], second(former, fields), place, extra=True)
    version = data["version"]
    if version not in (VERSION, 1) or isinstance(version, bool):
        raise InputError(f"{place}: version must be {VERSION} or 1 (or none, of runs before it), got {version!r}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{place}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    fields = {k: v for k, v in data.items() if k not in ("version", "kind")}
    return from_json(KINDS[kind], second(kind, fields) if version == 1 else fields, place)
