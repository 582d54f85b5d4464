"""What a training learns at its end of which pictures are like its own: familiarity.json, by target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lfdeploy.console import say
from lfdeploy.data import Data
from lfdeploy.familiarity import FILE, KEY, fitted, score
from lfdeploy.images import Pixels
from lfdeploy.recorded_logits import Floats
from lfdeploy.run import Run, write_json
from training.engine import Engine
from training.testimony import logits_of

COUNT = 32  # pictures of each kind
PIECES = 4  # a side, of a test picture whose pieces are shuffled


def unlike(data: Data) -> dict[str, Pixels]:
    """Pictures that no split holds, uint8 (32, S, S, 3) by kind: noise, plain colours, and test pictures with
    their pieces shuffled.
    """
    size, rng = data.image_size, np.random.default_rng(2022)
    plain = rng.integers(0, 256, (COUNT, 1, 1, 3), dtype=np.uint8)
    pictures = np.ascontiguousarray(data.test.images[:COUNT]).copy()
    piece = size // PIECES
    for picture in pictures:
        places = [(row * piece, column * piece) for row in range(PIECES) for column in range(PIECES)]
        before = picture.copy()
        for (row, column), (y, x) in zip(places, rng.permutation(places).tolist(), strict=True):
            picture[row : row + piece, column : column + piece] = before[y : y + piece, x : x + piece]
    return {
        "noise": rng.integers(0, 256, (COUNT, size, size, 3), dtype=np.uint8),
        "blank": np.broadcast_to(plain, (COUNT, size, size, 3)).copy(),
        "shuffled": pictures,
    }


def learn_familiarity(
    run: Run,
    engine: Engine,
    data: Data,
    norm: tuple[Tensor, Tensor],
    val: Mapping[str, Floats],
    test: Mapping[str, Floats],
) -> None:
    """Write the run's familiarity.json from logits (N, K) by target on val and test, which were evaluated
    with the weights that the engine holds. Each block tells what it is worth: how many test pictures are
    familiar, and AUROC in % of test pictures against each kind of `unlike`.

    Without a val split there is nothing to learn from. Where memory does not suffice that is said, and costs
    no result.
    """
    blocks = {name: fitted(logits, data.val.labels) for name, logits in val.items()}
    known = [name for name, block in blocks.items() if block["threshold"] is not None]
    try:
        odd = unlike(data) if known else {}
        strange = {kind: logits_of(engine, pixels, *norm) for kind, pixels in odd.items()}
    except RuntimeError as error:  # as when a GPU has no memory left
        say(f"Note: {FILE} was not written: {str(error).splitlines()[0]}.")
        return
    for name in known:
        block = blocks[name]
        own = _scores(block, test[name])
        block["test"] = {
            "images": len(own),
            "familiar": int((own <= block["threshold"]).sum()),
            "auroc": {
                kind: round(100 * auroc(_scores(block, logits[name]), own), 2)
                for kind, logits in strange.items()
            },
        }
    if blocks:
        write_json(run.path / FILE, blocks)


def _scores(block: dict[str, Any], logits: Floats) -> NDArray[np.float64]:
    found = score({KEY: block}, logits)
    assert found is not None
    return found


def auroc(strange: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """How often a strange picture scores above one of ours; ties count half."""
    ours = np.sort(own)
    below = np.searchsorted(ours, strange, "left") + np.searchsorted(ours, strange, "right")
    return float(below.mean() / 2 / len(ours))
