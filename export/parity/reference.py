"""What artifacts are judged against: the run's fp32 module on the test pictures and the probes, computed once
for all of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.independent.evidence import NOISE_PICTURES, RANGE_PICTURES, Truth, truth_of
from export.independent.halves import Rounded, largest_activation, nature
from export.parity.probes import probe_pictures
from lfdeploy.artifact import input_of
from lfdeploy.backends import BACKENDS, Session, Source
from lfdeploy.backends.base import Floats, in_chunks
from lfdeploy.data import Data, Files, Split
from lfdeploy.images import Pixels
from lfdeploy.models.deploy import Classifier
from lfdeploy.models.explain import HEATMAP, explained
from lfdeploy.models.multi_output import ALL, main_of, members_of
from lfdeploy.run import Run

HALF_PICTURES = 32
BATCH = 32  # a CPU computes it faster than larger ones, whose maps leave its cache
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
    def _natures(self) -> dict[str, Rounded]:
        return {}

    def scale_of(self, pictures: int) -> Floats:
        """(N + P, 1): what the differences of so many pictures and all probes are divided by, each by its own
        kind's scale.
        """
        loudest = float(np.abs(self.logits).max())
        scales = [loudest, max(loudest, float(np.abs(self.probe_logits).max()))]
        return np.repeat(np.array(scales, np.float32), [pictures, len(self.probes)])[:, None].clip(1e-12)

    def nature(self, precision: str) -> Rounded:
        """What a half precision does to this module by itself, on some pictures and all probes."""
        if precision not in self._natures:
            some = min(HALF_PICTURES, len(self.images))
            pictures = np.concatenate([np.asarray(self.images.images[:some]), self.probes])
            logits = np.concatenate([self.logits[:some], self.probe_logits])
            self._natures[precision] = nature(
                self.classifier, precision, pictures, logits, self.scale_of(some)
            )
        return self._natures[precision]

    @cached_property
    def largest_activation(self) -> tuple[str, float]:
        """The layer that reaches furthest on real pictures and probes, and how far."""
        some = np.asarray(self.images.images[:HALF_PICTURES])
        return largest_activation(self.classifier, np.concatenate([some, self.probes]))

    @cached_property
    def _truths(self) -> dict[bool, Truth]:
        return {}

    def truth(self, heat: bool) -> Truth:
        """What a file of this target is held to, with the names of a file with a heat
        map or of one without.
        """
        if heat not in self._truths:
            count = min(NOISE_PICTURES, len(self.images))
            outputs = outputs_of(self)
            named = explained(self.classifier, self.target, self.run.spec) if heat else self.classifier
            self._truths[heat] = truth_of(
                self.classifier, named, self.run.spec,
                pictures=np.ascontiguousarray(self.images.images[:count]),
                logits={name: ref.logits[:count] for name, ref in outputs.items()},
                probes=self.probes, probe_logits={name: ref.probe_logits for name, ref in outputs.items()},
            )  # fmt: skip
        return self._truths[heat]


def outputs_of(ref: Reference) -> dict[str, Reference]:
    """The outputs with logits that a file of the reference's target has, each with its own reference."""
    if not ref.members:
        return {"logits": ref}
    main, *members = ref.members.items()
    return {"logits": main[1]} | {f"logits_{name}": own for name, own in members}


def training_pictures(data: Data, named: set[str]) -> Pixels:
    """Up to 64 pictures of train, evenly over it: those whose digests are not named, and others where they
    are fewer.
    """
    digests = np.array([digest.decode() in named for digest in data.train.digests.tolist()])
    free, others = np.flatnonzero(~digests), np.flatnonzero(digests)
    count = min(RANGE_PICTURES, len(free))
    chosen = [_evenly(free, count), _evenly(others, min(RANGE_PICTURES - count, len(others)))]
    return np.ascontiguousarray(data.train.images[np.sort(np.concatenate(chosen))])


def _evenly(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    places = np.linspace(0, max(len(indices) - 1, 0), count).astype(int)
    chosen: NDArray[np.intp] = indices[np.unique(places)]
    return chosen


def reference(run: Run, target: str, split: Split, data: Data, tick: Tick = lambda count: None) -> Reference:
    """Run the module over the split and the probes.

    ``data``: all splits, of which int8 examines the training pictures.
    """
    size, session = int(run.spec["image_size"]), module(run, target)
    probes = probe_pictures(size, np.ascontiguousarray(split.images[:8]))
    return Reference(
        run,
        target,
        split,
        logits_of(session, split, tick),
        probes,
        in_chunks(session, probes, 256)[0],
        data,
    )


def references(run: Run, split: Split, data: Data, tick: Tick = lambda count: None) -> dict[str, Reference]:
    """`reference` of every target of a run from one pass, in which each backbone is computed once."""
    size, session = int(run.spec["image_size"]), module(run, ALL)
    probes = probe_pictures(size, np.ascontiguousarray(split.images[:8]))
    logits, probe_logits = answers_of(session, split, BATCH, tick), session.named(probes)
    outputs = {main_of(run.spec): "logits"} | {name: f"logits_{name}" for name in members_of(run.spec)}
    return {
        name: Reference(run, name, split, logits[out], probes, probe_logits[out], data)
        for name, out in outputs.items()
    }


def module(run: Run, target: str) -> Session:
    """A run's fp32 module, opened."""
    manifest = {"target": target, "input": input_of(int(run.spec["image_size"])), "batch": {"max": 256}}
    return BACKENDS["pytorch"].open(Source(run.weights, manifest, run), "auto")


def validation(run: Run, target: str, data: Data) -> tuple[Split, Floats]:
    """The validation pictures that neither train nor test holds too, pixel for pixel, and the module's logits
    for them.
    """
    known = set(data.test.digests.tolist()) | set(data.train.digests.tolist())
    free = np.array(
        [i for i, digest in enumerate(data.val.digests.tolist()) if digest not in known], np.int64
    )
    images = data.val.images
    chosen = images.take(free) if isinstance(images, Files) else images[free]
    split = Split(chosen, data.val.labels[free], data.val.digest, data.val.digests[free])
    if not len(free):
        return split, np.zeros((0, len(data.classes)), np.float32)
    return split, logits_of(module(run, target), split, lambda count: None)


def logits_of(session: Session, split: Split, tick: Tick) -> Floats:
    """A session's logits (N, K) for a whole split."""
    return answers_of(session, split, BATCH, tick)["logits"]


def answers_of(session: Session, split: Split, batch: int, tick: Tick) -> dict[str, Floats]:
    """A session's logits and probabilities (N, K) for a whole split, and logits of members, by output."""
    parts: dict[str, list[Floats]] = {}
    for images, labels in split.batches(batch):
        for name, found in session.named(np.ascontiguousarray(images)).items():
            if name != HEATMAP:
                parts.setdefault(name, []).append(found)
        tick(len(labels))
    return {name: np.concatenate(found) for name, found in parts.items()}
