"""How well an artifact tells pictures that are unlike those it was trained on.

    python tests/export/unlike.py ARTIFACT [PICTURES...]

Beside noise, plain colours and test pictures in pieces, each of PICTURES (a folder, an .npz, a data set's
name) is a kind of its own, of which up to 500 are taken. Prints, in %, how many of each kind are called
unfamiliar and AUROC against the run's test pictures; beside it AUROC of the top probability alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from lfdeploy.artifact import run_of
from lfdeploy.console import table
from lfdeploy.familiarity import score, unfamiliar
from lfdeploy.images import Pixels, fit_all, prepare
from lfdeploy.names import printable
from lfdeploy.predict import Predictor
from lfdeploy.sources import read
from training.familiar import auroc, unlike

MOST = 500


def pictures(name: str, size: int) -> Pixels:
    """Up to `MOST` pictures of a source, drawn from all its splits."""
    found: list[Any] = [picture for split, _ in read(name, None).splits.values() for picture in split]
    picked = np.random.default_rng(0).permutation(len(found))[:MOST]
    return np.stack(
        [
            fit_all(found[i][None], size)[0] if isinstance(found[i], np.ndarray) else prepare(found[i], size)
            for i in picked
        ]
    )


def main(path: str, *others: str) -> None:
    """The table of one artifact."""
    predictor = Predictor.open(path, device="cpu")
    manifest, data = predictor.artifact.manifest, run_of(predictor.artifact).data()
    kinds: dict[str, Pixels] = {"test pictures": np.asarray(data.test.images[:MOST])}
    kinds |= unlike(data) | {Path(name).name: pictures(name, predictor.size) for name in others}
    rows, own = [], None
    for kind, pixels in kinds.items():
        logits, probabilities = predictor.run(pixels)
        found = score(manifest, logits)
        if found is None:
            sys.exit(f"It says nothing of that: {manifest.get('familiarity', {}).get('reason')}.")
        own = own or (found, -probabilities.max(1))
        named = np.mean(unfamiliar(manifest, logits))
        both = [f"{100 * auroc(*pair):.1f}" for pair in zip((found, -probabilities.max(1)), own, strict=True)]
        rows.append([printable(kind), f"{len(pixels)}", f"{100 * named:.1f}", *(both if rows else ["", ""])])
    table("", ["kind", "pictures", "unfamiliar %", "AUROC %", "of the top probability"], rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
