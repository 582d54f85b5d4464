"""``python -m lfdeploy``, and so ``torchrun -m lfdeploy train``."""

from __future__ import annotations

from lfdeploy.cli import main

if __name__ == "__main__":
    main(prog_name="lfdeploy")
