"""docs/methods.md from the rows of the table: what each method is, its loss, what it ships, when to choose
it, its source.

Usage: methods_page.py > docs/methods.md
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields

from lfdeploy.listing import GROUPS
from training.methods import METHODS

HEAD = """# Methods

Written by `tests/training/methods_page.py` from the rows themselves. z_m are the logits of peer m, p_m
its prediction, CE the cross-entropy with the labels, KD_T(t -> s) = T^2 KL(softmax(t/T) ||
softmax(s/T)), w the ramp over the first epochs. Teachers are constants unless it is said otherwise. `-o
logits standard` standardises the logits of every KD term.

Nothing here reproduces a published number; `lfmkd` is a reconstruction from its paper's abstract and
from `ffl`.
"""


TAIL = """
## Not here

- **okdep** (online distillation with elastic peers): neither the paper's text nor code of it was at hand,
  and a method that is guessed from its title is none.
- **kdgan** (Wang et al. 2018): a discriminator is trained against classifier and teacher in turns, by policy
  gradients. That takes several optimisers and losses that are no sum over edges.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for group, heading in GROUPS.items():
        lines.append(f"## {heading}\n")
        for name, row in METHODS.items():
            if row.group != group:
                continue
            module = inspect.getdoc(sys.modules[row.graph.__module__])
            lines += [
                f"### {name}\n",
                f"{module}\n",
                f"- loss: `{row.loss}`",
                f"- shipped: {row.ships}",
                f"- choose it for: {row.when}",
            ]
            options = ", ".join(f"`{f.name}` {f.default}" for f in fields(row.options))
            lines += [
                f"- source: {row.source}",
                f"- networks by default: {row.peers}",
                f"- options: {options}\n",
            ]
    return "\n".join([*lines, TAIL])


if __name__ == "__main__":
    sys.stdout.write(page())
