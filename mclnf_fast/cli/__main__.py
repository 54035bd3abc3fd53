"""`python -m mclnf_fast.cli`, which works without an installed command."""

import sys

from mclnf_fast.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
