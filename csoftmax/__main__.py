"""``python -m csoftmax`` is the command line: csoftmax.cli."""

import sys

from csoftmax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
