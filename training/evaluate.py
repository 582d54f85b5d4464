"""Accuracy of every node of a cohort, and of any exported artifact, on one split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfdeploy.data import Split
from training.augment import normalise
from training.engine import Engine

BATCH = 256


@dataclass(frozen=True)
class Scores:
    """Top-1 in percent by node, and the predicted class (N,) of the node that is shipped first."""

    top1: dict[str, float]
    predicted: NDArray[np.int64]

    def document(self) -> dict[str, Any]:
        """The shape of summary.json's ``val`` and ``test``."""
        rows = self.top1
        return {
            "peers": [value for name, value in rows.items() if name.startswith("peer")],
            "fused": rows.get("fused"),
            "ensemble": rows["ensemble"],
            "ensemble_probs": rows["ensemble_probs"],
            "aux": [value for name, value in rows.items() if name.startswith("aux")],
        }


def evaluate_cohort(engine: Engine, split: Split, mean: Tensor, std: Tensor, tick: Callable[[int], None] = lambda n: None) -> Scores:
    """All nodes in eval mode and fp32 over a split, in its order."""
    cohort = engine.cohort
    cohort.eval()
    correct: dict[str, Tensor] = {}
    predicted = []
    for images, labels in split.batches(BATCH):
        truth = torch.from_numpy(labels).to(mean.device)
        nodes = engine.forward(normalise(torch.from_numpy(np.ascontiguousarray(images)).to(mean.device), mean, std))
        answers = {name: nodes.logits[name].argmax(1) for name in cohort.names}
        probabilities = [torch.softmax(nodes.logits[f"peer{i}"].float(), 1) for i in range(len(cohort.peers))]
        answers["ensemble_probs"] = torch.stack(probabilities).mean(0).argmax(1)
        for name, answer in answers.items():
            right = (answer == truth).sum()
            correct[name] = correct[name] + right if name in correct else right
        predicted.append(answers["fused" if "fused" in answers else "peer0"])
        tick(len(labels))
    cohort.train()
    top1 = {name: 100 * int(right) / len(split) for name, right in correct.items()}
    return Scores(top1, torch.cat(predicted).cpu().numpy())
