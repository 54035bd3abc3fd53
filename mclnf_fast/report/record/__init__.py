"""The typed record of a run: what `metrics.json` holds."""

from mclnf_fast.report.record.codec import from_json, to_json
from mclnf_fast.report.record.files import read_record, record_from_json
from mclnf_fast.report.record.parts import (
    BlockFacts,
    Comparison,
    Facts,
    MetaTraining,
    Names,
    Orbit,
    Photos,
    Picture,
    Tried,
    Trivial,
    Views,
)
from mclnf_fast.report.record.records import (
    VERSION,
    CityRecord,
    CityResults,
    FineCurve,
    InitializationRecord,
    InitializationResults,
    Record,
    SeedResults,
    SignalRecord,
    SignalResults,
)

__all__ = [
    "VERSION",
    "BlockFacts",
    "CityRecord",
    "CityResults",
    "Comparison",
    "Facts",
    "FineCurve",
    "InitializationRecord",
    "InitializationResults",
    "MetaTraining",
    "Names",
    "Orbit",
    "Photos",
    "Picture",
    "Record",
    "SeedResults",
    "SignalRecord",
    "SignalResults",
    "Tried",
    "Trivial",
    "Views",
    "from_json",
    "read_record",
    "record_from_json",
    "to_json",
]
