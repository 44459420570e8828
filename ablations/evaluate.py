"""The former name of `python -m ablations.rescore`, for scripts that call it."""

import sys

from ablations.rescore import main

if __name__ == "__main__":
    sys.exit(main())
