"""What training itself says of its networks: reference.safetensors, logits of every target on a few pictures
and probes.

Training writes it from the very modules that it trained. Whoever rebuilds them later, from the weights and
spec.json, can be held to it, whatever code the two share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfdeploy.errors import LfdeployError

if TYPE_CHECKING:
    from lfdeploy.images import Pixels
    from lfdeploy.run import Run

FILE = "reference.safetensors"
PICTURES = 64  # of the test split, at most
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recorded:
    """Digests (N,) of test pictures' pixels and logits (N, K) by target; probes uint8 (P, S, S, 3) and their
    logits (P, K).

    ``facts``: class names, the hash of the weights, the device, torch's version and the CPU's
    instruction set.
    """

    digests: tuple[str, ...]
    logits: Mapping[str, Floats]
    probes: Pixels
    probe_logits: Mapping[str, Floats]
    facts: Mapping[str, Any]


def chosen(count: int) -> NDArray[np.int64]:
    """Indices of the pictures to note, evenly over a split of ``count``."""
    return np.unique(np.linspace(0, count - 1, min(PICTURES, count)).round().astype(np.int64))


def probe_pixels(size: int) -> Pixels:
    """Pictures uint8 (8, S, S, 3) that no split holds: black, white, each channel alone, a ramp,
    squares, noise.
    """
    rows, columns = np.mgrid[:size, :size]
    pictures = [np.zeros((size, size, 3), np.uint8), np.full((size, size, 3), 255, np.uint8)]
    for channel in range(3):
        picture = np.full((size, size, 3), 32, np.uint8)
        picture[..., channel] = 224
        pictures.append(picture)
    ramp = (255 * (rows + 2 * columns) // (3 * size)).astype(np.uint8)
    pictures.append(np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1))
    squares = (255 * ((rows // 3 + columns // 5) % 2)).astype(np.uint8)
    pictures.append(np.stack([squares, squares.T, 255 - squares], axis=-1))
    pictures.append(np.random.default_rng(2022).integers(0, 256, (size, size, 3), dtype=np.uint8))
    return np.stack(pictures)


def write(run: Run, recorded: Recorded) -> None:
    """Into the run's directory, by one rename."""
    from safetensors.numpy import save

    from lfdeploy.run import write_bytes

    digests = np.frombuffer("".join(recorded.digests).encode(), np.uint8).reshape(-1, 16)
    tensors: dict[str, Any] = {"digests": digests.copy(), "probes": np.ascontiguousarray(recorded.probes)}
    tensors |= {f"pictures/{target}": np.ascontiguousarray(z) for target, z in recorded.logits.items()}
    tensors |= {f"probes/{target}": np.ascontiguousarray(z) for target, z in recorded.probe_logits.items()}
    write_bytes(
        run.path / FILE,
        save(tensors, {"facts": json.dumps(recorded.facts, sort_keys=True, ensure_ascii=False)}),
    )


def read(run: Run) -> Recorded | None:
    """What the run's training noted; None for a run from before it did.

    Raises `LfdeployError` for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    path = run.path / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
            facts = json.loads((file.metadata() or {})["facts"])
        digests = tuple(bytes(row).decode() for row in tensors["digests"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise LfdeployError(f"{path} is damaged: {error}. Train the run again.") from None
    logits, probes = (
        {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
        for kind in ("pictures/", "probes/")
    )
    return Recorded(digests, logits, tensors["probes"], probes, facts)


def facts_here(device: str) -> dict[str, str]:
    """What decides the last digits of a network's logits on this machine."""
    import torch

    from lfdeploy.devices import instruction_set

    return {"device": device, "torch": str(torch.__version__), "instruction_set": instruction_set()}
