"""The parts of every report page: templates, style, plots and tables."""
