"""`python -m semhitok`, which is also what torchrun and accelerate launch."""

from runtime.ranks import leave
from semhitok.main import main

if __name__ == "__main__":
    leave(main())
