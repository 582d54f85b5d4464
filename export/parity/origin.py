"""Where a file comes from: node for node what the exporter makes of the run's module, for int8 by training
pictures alone.

Pictures show only faults that they meet: not those of a batch size, a brightness or a class that nobody
tried. And int8 moves answers by nature, which leaves room for small ones. So the file is made again from the
run, and compared.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.build.graph import Traced, traced_of
from export.build.quantize import SCHEMES, activations, batches, pick, with_ranges
from export.build.ranges import CALIBRATORS, ranges, spreads
from export.numbers.check import Check, Unexamined, at_least, equal
from export.parity.contract import lone_facts
from lfdeploy.backends import BACKENDS, Material, executes
from lfdeploy.backends.alike import SAME
from lfdeploy.confidence import temperature
from lfdeploy.models.explain import explains
from lfdeploy.run import versions

if TYPE_CHECKING:
    from lfdeploy.data import Data
    from lfdeploy.run import Run

FEWEST = 128  # pictures that calibrate at least
MAKERS = ("lfdeploy", "torch", "onnx", "onnxscript")
MORE = {"int8": ("onnxruntime-gpu", "onnxruntime"), "openvino": ("openvino",)}  # by precision and by format


def calibration_checks(
    manifest: dict[str, Any], data: Data, same_training: bool
) -> Iterator[Check | Unexamined]:
    """Stage calibration: enough pictures, all of the training split, none of the test split."""
    told = manifest["calibration"]
    digests = set(told["digests"])
    yield equal("calibration", "split", told["split"], "train")
    yield equal("calibration", "scheme", told["scheme"], SCHEMES[manifest["format"]])
    yield equal(
        "calibration",
        "calibrator",
        told["calibrator"] if told["calibrator"] in CALIBRATORS else "unknown",
        told["calibrator"],
    )
    yield at_least(
        "calibration", "pictures", len(digests), min(FEWEST, len(np.unique(data.train.digests)) // 2)
    )
    if same_training:
        yield equal(
            "calibration", "pictures shared with the test split", len(digests & _names(data.test.digests)), 0
        )
        yield equal(
            "calibration", "pictures outside the training split", len(digests - _names(data.train.digests)), 0
        )
        wanted = _names(data.train.digests[pick(data).calibration])
        yield equal("calibration", "pictures that the rule does not choose", len(digests ^ wanted), 0)
    else:
        yield Unexamined(
            "calibration", "which pictures calibrated it: these are other pictures than the run's"
        )


def other_versions(manifest: dict[str, Any]) -> list[str]:
    """Makers of the file that are installed here in another version than made it: then it cannot be made
    again to compare.
    """
    here, there = versions(), manifest.get("versions") or {}
    makers = (*MAKERS, *MORE.get(str(manifest["precision"]), ()), *MORE.get(str(manifest["format"]), ()))
    return [name for name in makers if here.get(name) != there.get(name)]


def format_of(file: Path, manifest: dict[str, Any]) -> str:
    """The backend whose format a file has: the manifest's, or that of the ONNX file which an engine was
    built from.
    """
    name = executes(manifest)
    return name if file.name == BACKENDS[name].file else "onnxruntime"


def origin_checks(file: Path, manifest: dict[str, Any], data: Data, run: Run) -> Iterator[Check]:
    """Stage origin: the file is the one that the run gives, made again: every node and every number."""
    precision, facts = str(manifest["precision"]), lone_facts(manifest)
    traced = _traced(manifest, run)
    blob = b"" if file.suffix == ".pt2" else _onnx(traced, manifest, data)
    row = BACKENDS[format_of(file, manifest)]
    assert row.difference is not None
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / f"source{file.suffix}"
        onnx = again.with_name("source.onnx")
        onnx.write_bytes(blob)
        if again != onnx:
            assert row.build is not None
            row.build(Material(onnx, _profile(manifest), traced.program, facts), again)
        yield equal("origin", "made again from the run", row.difference(file, again, precision), SAME)


def source_again(manifest: dict[str, Any], data: Data, run: Run) -> bytes:
    """The ONNX file that an engine was built from, made again from the run; empty where that gives other
    bytes here.
    """
    blob = _onnx(_traced(manifest, run), manifest, data)
    return blob if hashlib.sha256(blob).hexdigest() == manifest["engine"]["source_sha256"] else b""


def _profile(manifest: dict[str, Any]) -> tuple[int, int, int]:
    batch = manifest["batch"]
    return batch["min"], batch["opt"], batch["max"]


def _traced(manifest: dict[str, Any], run: Run) -> Traced:
    target, precision = str(manifest["target"]), str(manifest["precision"])
    return traced_of(run, target, precision, _profile(manifest), temperature(manifest), explains(manifest))


def _onnx(traced: Traced, manifest: dict[str, Any], data: Data) -> bytes:
    blob = traced.onnx(lone_facts(manifest))
    return _quantised(blob, manifest["calibration"], data) if manifest["precision"] == "int8" else blob


def _quantised(blob: bytes, told: dict[str, Any], data: Data) -> bytes:
    """The fp32 file in int8, with the ranges that the pictures named in the manifest give."""
    import onnx

    model, digests = onnx.load_from_string(blob), set(told["digests"])
    chosen = np.array(
        [i for i, digest in enumerate(data.train.digests.tolist()) if digest.decode() in digests], np.int64
    )
    _, first = np.unique(data.train.digests[chosen], return_index=True)
    found = spreads(model, activations(model.graph), batches(data.train.images, chosen[np.sort(first)]))
    return with_ranges(blob, ranges(found, told["calibrator"]), told["scheme"])


def _names(digests: Any) -> set[str]:
    return {digest.decode() for digest in digests.tolist()}
