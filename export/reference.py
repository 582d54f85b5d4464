"""What artifacts are judged against: the run's fp32 module on the test pictures and the probes, computed once for all of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from export.half import Half, half_facts, largest_activation
from export.probes import probe_pictures
from lfdeploy.artifact import input_of
from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.backends.base import Floats, in_chunks
from lfdeploy.data import Data, Files, Split
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier
from lfdeploy.models.explain import HEATMAP
from lfdeploy.models.together import ALL, main_of, members_of
from lfdeploy.run import Run

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Reference:
    """The fp32 module's logits for the pictures, computed once for all artifacts of a target.

    ``members``: for the target ``all`` the references of the main target, first, and of each member.
    """

    run: Run
    target: str
    images: Split
    logits: Floats
    probes: Pixels
    probe_logits: Floats
    data: Data
    members: Mapping[str, Reference] = field(default_factory=dict)

    @cached_property
    def classifier(self) -> Classifier:
        """The fp32 module."""
        return self.run.classifier(self.target)

    @cached_property
    def validation(self) -> tuple[Split, Floats]:
        """The validation pictures for a temperature, and the module's logits for them."""
        return validation(self.run, self.target, self.data)

    @cached_property
    def halves(self) -> dict[str, Half]:
        """What is known by now of half precisions; `half` fills it."""
        return {}

    def half(self, precision: str) -> Half:
        """What a half precision does to this module, on some of the pictures and all probes."""
        if precision not in self.halves:
            some = min(512, len(self.images))
            pictures = np.asarray(self.images.images[:some])
            probes = self.probes, self.probe_logits
            self.halves[precision] = half_facts(self.classifier, (pictures, self.logits[:some]), probes, precision)
        return self.halves[precision]

    @cached_property
    def largest_activation(self) -> tuple[str, float]:
        """The layer that reaches furthest on real pictures and probes, and how far."""
        some = np.asarray(self.images.images[:64])
        return largest_activation(self.classifier, np.concatenate([some, self.probes]))


def reference(run: Run, target: str, split: Split, data: Data, tick: Tick = lambda count: None) -> Reference:
    """Run the module over the split and the probes. ``data``: all splits, of which int8 examines the training pictures."""
    size, session = int(run.spec["image_size"]), module(run, target)
    probes = probe_pictures(size, np.ascontiguousarray(split.images[:8]))
    return Reference(run, target, split, logits_of(session, split, 256, tick), probes, in_chunks(session, probes, 256)[0], data)


def references(run: Run, split: Split, data: Data, tick: Tick = lambda count: None) -> dict[str, Reference]:
    """`reference` of every target of a run from one pass, in which each backbone is computed once."""
    size, session = int(run.spec["image_size"]), module(run, ALL)
    probes = probe_pictures(size, np.ascontiguousarray(split.images[:8]))
    logits, probe_logits = answers_of(session, split, 256, tick), session.named(probes)
    outputs = {main_of(run.spec): "logits"} | {name: f"logits_{name}" for name in members_of(run.spec)}
    return {name: Reference(run, name, split, logits[out], probes, probe_logits[out], data) for name, out in outputs.items()}


def module(run: Run, target: str) -> Session:
    """A run's fp32 module, opened."""
    manifest = {"target": target, "input": input_of(int(run.spec["image_size"])), "batch": {"max": 256}}
    return BACKENDS["pytorch"].open(Source(run.weights, manifest, run), "auto")


def validation(run: Run, target: str, data: Data) -> tuple[Split, Floats]:
    """The validation pictures that neither train nor test holds too, pixel for pixel, and the module's logits for them."""
    known = set(data.test.digests.tolist()) | set(data.train.digests.tolist())
    free = np.array([i for i, digest in enumerate(data.val.digests.tolist()) if digest not in known], np.int64)
    images = data.val.images
    chosen = Files([images.paths[i] for i in free], images.size) if isinstance(images, Files) else images[free]
    split = Split(chosen, data.val.labels[free], data.val.digest, data.val.digests[free])
    if not len(free):
        return split, np.zeros((0, len(data.classes)), np.float32)
    return split, logits_of(module(run, target), split, 256, lambda count: None)


def logits_of(session: Session, split: Split, batch: int, tick: Tick) -> Floats:
    """A session's logits (N, K) for a whole split."""
    return answers_of(session, split, batch, tick)["logits"]


def answers_of(session: Session, split: Split, batch: int, tick: Tick) -> dict[str, Floats]:
    """A session's logits and probabilities (N, K) for a whole split, and logits of members, by output."""
    parts: dict[str, list[Floats]] = {}
    for images, labels in split.batches(batch):
        for name, found in session.named(np.ascontiguousarray(images)).items():
            if name != HEATMAP:
                parts.setdefault(name, []).append(found)
        tick(len(labels))
    return {name: np.concatenate(found) for name, found in parts.items()}
