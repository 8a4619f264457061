"""`python -m semhitok`, which is also what torchrun and accelerate launch."""

from semhitok.cli import main
from semhitok.ranks import leave

if __name__ == "__main__":
    leave(main())
