"""Former place of `machine.kind`: a stack that is up has this command in its state, and destroy runs it."""

import sys

from machine.kind import main

if __name__ == "__main__":
    sys.exit(main())
