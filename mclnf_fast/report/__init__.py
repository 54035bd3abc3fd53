"""Tables, plots, pictures and the HTML report of a run, from its record."""

from mclnf_fast.report.city.maps import fisher_map, module_map
from mclnf_fast.report.city.pictures import overview, save_png, strip, triptych
from mclnf_fast.report.city.report import write_city_report
from mclnf_fast.report.city.tables import summary_markdown
from mclnf_fast.report.city.terminal import block_line, city_text, matrix_table
from mclnf_fast.report.page.style import check_extra
from mclnf_fast.report.protocol.filmstrip import filmstrip
from mclnf_fast.report.protocol.qualitative import Labels, Sound, qualitative_picture
from mclnf_fast.report.protocol.report import signal_table, write_run_pictures, write_signal_report
from mclnf_fast.report.record import read_record

__all__ = [
    "Labels",
    "Sound",
    "block_line",
    "check_extra",
    "city_text",
    "filmstrip",
    "fisher_map",
    "matrix_table",
    "module_map",
    "overview",
    "qualitative_picture",
    "read_record",
    "save_png",
    "signal_table",
    "strip",
    "summary_markdown",
    "triptych",
    "write_city_report",
    "write_run_pictures",
    "write_signal_report",
]
