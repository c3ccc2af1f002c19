"""`python -m minipeft` is the command `minipeft`."""

import sys

from minipeft.cli import main

if __name__ == "__main__":
    sys.exit(main())
