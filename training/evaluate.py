"""Accuracy of every reported node of a cohort on one split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lfdeploy.by_class import by_class
from lfdeploy.data import Split
from lfdeploy.models.targets import FUSED, NETWORK, Layout
from training.augment import normalise
from training.engine import Engine
from training.parts import Nodes

BATCH = 256  # of pictures up to 64 pixels a side; fewer of larger ones, more on a GPU
PROBABILITIES = "ensemble_probs"  # the mean of the networks' probabilities, beside the mean of their logits


@dataclass(frozen=True)
class Scores:
    """Top-1 in percent and cross-entropy by node, and of the node that is shipped first the predicted class
    (N,) and how good it is `by_class`.
    """

    top1: dict[str, float]
    predicted: NDArray[np.int64]
    layout: Layout
    watched: tuple[str, ...] = ()
    classes: dict[str, Any] = field(default_factory=dict)
    cross_entropy: dict[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The shape of summary.json's ``val`` and ``test``."""
        targets = self.layout.targets
        fused = [self.top1[name] for name, row in targets.items() if row.kind == FUSED]
        return {
            "top1": {name: self.top1[name] for name in (*targets, *self.watched)},
            "peers": [self.top1[name] for name in targets["ensemble"].networks],
            "fused": fused[0] if fused else None,
            "ensemble": self.top1["ensemble"],
            PROBABILITIES: self.top1[PROBABILITIES],
            "aux": [self.top1[name] for name in self.watched],
            **self.classes,
        }

    def shipped(self) -> dict[str, float]:
        """Of networks and fused targets: what may be shipped for itself."""
        return {
            name: self.top1[name] for name, row in self.layout.targets.items() if row.kind in (NETWORK, FUSED)
        }


def evaluate_cohort(
    engine: Engine,
    split: Split,
    mean: Tensor,
    std: Tensor,
    tick: Callable[[int], None] = lambda n: None,
    learn: bool = False,
    logits: dict[str, NDArray[np.float32]] | None = None,
) -> Scores:
    """All nodes in eval mode and fp32 over a split, in its order.

    ``learn``: parts that learn from validation do so afterwards. ``logits``, where given, is filled with
    those of every target, (N, K).
    """
    cohort = engine.cohort
    cohort.eval()
    layout, first = cohort.layout, cohort.layout.ships[0]
    learners = [part for part in cohort.parts.values() if learn and part.learns_from_validation]
    kept: dict[str, list[Tensor]] = {name: [] for part in learners for name in part.reads}
    told: dict[str, list[Tensor]] = {}
    right, entropy = dict[str, Tensor](), dict[str, Tensor]()
    predicted = []
    for images, labels in split.batches(pictures_at_once(split.images[:1].shape[1], mean.is_cuda)):
        truth = torch.from_numpy(labels).to(mean.device)
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(mean.device)
        nodes = engine.forward(normalise(pixels, mean, std), [*cohort.names, *kept])
        answers = {name: nodes[name].argmax(1) for name in cohort.names}
        probabilities = [torch.softmax(nodes[name].float(), 1) for name in layout["ensemble"].networks]
        answers[PROBABILITIES] = torch.stack(probabilities).mean(0).argmax(1)
        for name, answer in answers.items():
            count = (answer == truth).sum()
            right[name] = right[name] + count if name in right else count
        for name in cohort.names:
            total = F.cross_entropy(nodes[name].float(), truth, reduction="sum").double()
            entropy[name] = entropy[name] + total if name in entropy else total
        for name, tensors in kept.items():
            tensors.append(nodes[name])
        predicted.append(answers[first])
        for name in layout.targets if logits is not None else ():
            told.setdefault(name, []).append(nodes[name].float().cpu())
        tick(len(labels))
    _teach(learners, kept, split, mean.device)
    cohort.train()
    if logits is not None:
        logits |= {name: torch.cat(tensors).numpy() for name, tensors in told.items()}
    top1 = {name: 100 * int(count) / len(split) for name, count in right.items()}
    answered, classes = torch.cat(predicted).cpu().numpy(), int(nodes[first].shape[1])
    measures = by_class(answered, split.labels, classes)
    mean_entropy = {name: float(total) / len(split) for name, total in entropy.items()}
    return Scores(top1, answered, layout, cohort.watched, measures, mean_entropy)


def pictures_at_once(side: int, on_gpu: bool) -> int:
    """How many pictures of that side to answer together: their maps are what memory goes to."""
    if on_gpu:
        return 4 * BATCH if side <= 32 else BATCH
    return BATCH if side <= 64 else max(4, BATCH * 32**2 // side**2)


def _teach(learners: list[Any], kept: dict[str, list[Tensor]], split: Split, device: torch.device) -> None:
    if learners:
        whole: Nodes = {name: torch.cat(tensors) for name, tensors in kept.items()}
        whole["labels"] = torch.from_numpy(split.labels).to(device)
        for part in learners:
            part.after_epoch(whole)
