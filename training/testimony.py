"""What a training notes of its networks when it ends, for whoever rebuilds them later."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lfdeploy.console import say
from lfdeploy.data import Data
from lfdeploy.images import Pixels
from lfdeploy.recorded_logits import FILE, Floats, Recorded, chosen, facts_here, probe_pixels, write
from lfdeploy.run import Run, sha256
from lfdeploy.split_arrays import pixel_digest
from training.augment import normalise
from training.engine import Engine


def testify(run: Run, engine: Engine, data: Data, mean: Tensor, std: Tensor) -> None:
    """Write the logits of every target on up to 64 test pictures and a few probes, in eval mode and fp32.

    The engine must hold the weights that the run keeps; they are on disk already.
    """
    pictures = np.ascontiguousarray(data.test.images[chosen(len(data.test))])
    probes = probe_pixels(data.image_size)
    logits, probe_logits = (logits_of(engine, pixels, mean, std) for pixels in (pictures, probes))
    facts = facts_here(engine.device) | {"classes": list(data.classes), "weights_sha256": sha256(run.weights)}
    write(
        run,
        Recorded(
            tuple(pixel_digest(picture).decode() for picture in pictures), logits, probes, probe_logits, facts
        ),
    )


def logits_of(engine: Engine, pixels: Pixels, mean: Tensor, std: Tensor) -> dict[str, Floats]:
    """Of every target, (N, K) by name."""
    cohort = engine.cohort
    cohort.eval()
    batches = []
    for start in range(0, len(pixels), 32):
        images = torch.from_numpy(pixels[start : start + 32]).to(mean.device)
        batches.append(engine.forward(normalise(images, mean, std), list(cohort.layout.targets)))
    cohort.train()
    return {
        name: torch.cat([nodes[name] for nodes in batches]).float().cpu().numpy()
        for name in cohort.layout.targets
    }


def testified(run: Run, engine: Engine, data: Data, mean: Tensor, std: Tensor) -> str | None:
    """The sha256 of what `testify` wrote; where memory does not suffice that is said, and costs no result."""
    try:
        testify(run, engine, data, mean, std)
    except RuntimeError as error:  # as when a GPU has no memory left
        say(f"Note: {FILE} was not written: {str(error).splitlines()[0]}. Exports have less to be held to.")
        return None
    return sha256(run.path / FILE)
