"""Tables, plots, pictures and the HTML report of a run."""

from mclnf_fast.report.city.maps import fisher_map, module_map
from mclnf_fast.report.city.pictures import overview, save_png, strip, triptych
from mclnf_fast.report.page.html import write_report
from mclnf_fast.report.page.plots import forgetting_plot, meta_curve, phase_plot, psnr_over_steps
from mclnf_fast.report.page.style import METHOD_NAMES, METHODS, PALETTE, check_extra
from mclnf_fast.report.page.tables import matrix_table, summary_markdown
from mclnf_fast.report.protocol.filmstrip import filmstrip
from mclnf_fast.report.protocol.qualitative import qualitative_picture
from mclnf_fast.report.protocol.signals import signal_table, write_run_pictures, write_signal_report

__all__ = [
    "METHODS",
    "METHOD_NAMES",
    "PALETTE",
    "check_extra",
    "filmstrip",
    "fisher_map",
    "forgetting_plot",
    "matrix_table",
    "meta_curve",
    "module_map",
    "overview",
    "phase_plot",
    "psnr_over_steps",
    "qualitative_picture",
    "save_png",
    "signal_table",
    "strip",
    "summary_markdown",
    "triptych",
    "write_report",
    "write_run_pictures",
    "write_signal_report",
]
