"""`python -m semhitok`, which is also what torchrun and accelerate launch."""

import os
import sys
from pathlib import Path

# `-m` puts the working folder first on the path, where a user's own `eval/` or `tokenizer.py` would
# be imported in place of ours.
if sys.path and Path(sys.path[0] or os.curdir).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from runtime.ranks import leave
from semhitok.main import main

if __name__ == "__main__":
    leave(main())
