"""`python -m p2pcache`: the command line."""

import sys

from p2pcache.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
