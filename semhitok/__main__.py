"""`python -m semhitok`, which is also what torchrun and accelerate launch."""

import sys

from semhitok.cli import main

if __name__ == "__main__":
    sys.exit(main())
