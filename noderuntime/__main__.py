"""`python -m noderuntime` is the `noderuntime` command."""

import sys

from noderuntime.cli import main

if __name__ == "__main__":
    sys.exit(main())
