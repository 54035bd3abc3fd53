"""The command line: `mclnf-fast run`, `table`, `data`, `bench`, `tune`, `info`."""

from mclnf_fast.cli.command import main

__all__ = ["main"]
