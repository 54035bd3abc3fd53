"""`python -m benchmarks`: the same as `mclnf-fast bench`."""

import sys

from benchmarks.command import main
from mclnf_fast.cli.guard import guarded

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
