"""`lfdeploy bisect`: the first layer at which an ONNX file leaves its PyTorch module.

The clean graph of the run's module is exported again and compared with the file, tensor by tensor: what has
accumulated so far, and what each node adds by itself, given the very inputs that it had in the file. A node
is named only for the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bisect.align import pair
from export.bisect.blame import UNEXPLAINED, Blame, Fault, tensor_pairs
from export.bisect.findings import Findings, number
from export.bisect.halves import widened
from export.bisect.nodes import OUTPUT, Graph, mark_outputs, read
from export.bisect.reference import Reference, reference
from export.bisect.tensors import Apart, CannotRun, Measured, load, measure, module_differences, rounding
from export.build.graph import HALVES
from export.parity.probes import probe_pictures
from lfdeploy.artifact import Artifact, find, run_of
from lfdeploy.confidence import temperature
from lfdeploy.config import flags_of
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, PictureError
from lfdeploy.images import Pixels, fit_all, prepare
from lfdeploy.models.explain import explains
from lfdeploy.run import Run, sha256
from lfdeploy.sources import read as read_source

BATCH = 2  # pictures at a time: the least that shows rows that leak into each other
# of a layer's scale: the exported graph and PyTorch are further apart than two runtimes of one network
EXPORTER = 1e-4


def bisect(
    given: str, *, images: int = 8, run: str | None = None, runs: str = "runs", data: str | None = None
) -> dict[str, Any]:
    """Compare an artifact, by path or name, published or in quarantine, with its module, on ``images``
    pictures and a few probes.

    The document has ``first`` (the node, its layer, what differs; None where nothing does), ``others``,
    ``silent`` (seen to differ, without effect), ``layers`` (one row per tensor) and ``sentence``. Numbers
    that are not finite are None. Raises `LfdeployError` when there is nothing to compare.
    """
    artifact = find(given, runs)
    home = run_of(artifact, run, runs)
    file, wanted = _file(artifact)
    fits = sha256(file) == wanted
    if not fits:
        say(
            f"{artifact.name}/{file.name} is not the file that its manifest describes (other sha256); "
            "it is compared as it is."
        )
    manifest = artifact.manifest
    proto = load(file)
    quantized = any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    precision = "int8" if quantized else str(manifest["precision"])
    size, batch = int(home.spec["image_size"]), manifest["batch"]
    say(
        f"Exporting {manifest['target']} of {home.name} again as the reference, "
        f"{'fp32' if quantized else precision}"
    )
    profile = int(batch["min"]), int(batch["opt"]), int(batch["max"])
    clean = reference(
        home, str(manifest["target"]), precision, size, profile, temperature(manifest), explains(manifest)
    )
    pictures = some_pictures(home, data, images)
    # what no calibration has seen says nothing of a quantised file
    probes = not (quantized and len(pictures))
    document = {"artifact": artifact.name, "file": file.name, "precision": precision, "sha256_fits": fits}
    return (
        document
        | {"images": len(pictures), "probes": probes}
        | compare(clean, proto, batches_of(pictures, size, probes))
    )


def _file(artifact: Artifact) -> tuple[Path, str | None]:
    """The ONNX file to examine and the sha256 that the manifest gives it."""
    manifest = artifact.manifest
    if artifact.file.suffix == ".onnx":
        file, wanted = artifact.file, manifest["sha256"]
    else:
        file, wanted = artifact.path / "source.onnx", (manifest.get("engine") or {}).get("source_sha256")
    if not file.is_file():
        if file == artifact.file:
            raise LfdeployError(f"{artifact.name} has no {file.name}. Export it again.")
        flag = flags_of(str(manifest["target"]))
        raise LfdeployError(
            f"{artifact.name} has no ONNX file beside its {artifact.file.name}; its layers cannot be "
            "looked into. Bisect the ONNX file "
            f"of the same weights: lfdeploy export {manifest['run']['name']} {flag} --format onnx "
            f"--precision {manifest['precision']}"
        )
    return file, wanted


def some_pictures(run: Run, data: str | None, count: int) -> Pixels:
    """A few test pictures (training ones where the source has no test split), read alone: not the whole
    data set.
    """
    size = int(run.spec["image_size"])
    found = np.zeros((0, size, size, 3), np.uint8)
    if not count:
        return found
    config = run.data_config(data)
    if (
        data is None
        and ("/" in config.data or config.data.endswith((".npz", ".csv")))
        and not Path(config.data).exists()
    ):
        raise LfdeployError(
            f"The run's data are no longer at {config.data}. Say where they are with --data, or use "
            "--images 0."
        )
    splits = read_source(config.data, config.data_root, judged=True).splits
    pictures, labels = (
        splits["test"] if "test" in splits and len(splits["test"][1]) else next(iter(splits.values()))
    )
    if not len(labels):
        raise LfdeployError(f"{config.data} holds no pictures.")
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int))
    if isinstance(pictures, np.ndarray):
        return fit_all(pictures[chosen], size)
    for index in chosen:
        try:
            found = np.concatenate([found, prepare(pictures[index], size)[None]])
        except PictureError as error:
            say(f"Left out: {error}")
    return found


def batches_of(pictures: Pixels, size: int, probes: bool) -> list[Pixels]:
    """Batches of the pictures, and of every third probe if wanted."""
    every = np.concatenate([pictures, probe_pictures(size, pictures[:0])[::3]]) if probes else pictures
    return [every[start : start + BATCH] for start in range(0, len(every), BATCH)]


def compare(clean: Reference, proto: Any, batches: Sequence[Pixels]) -> dict[str, Any]:
    """A model against a reference on batches of pictures (B, H, W, 3): the document without what the artifact
    says of itself.
    """
    notes = _contract(clean.proto, proto)
    mark_outputs(proto)
    theirs = read(proto)
    subject = widened(proto) if clean.precision in HALVES else proto
    try:
        blame, measured, faults = _examined(clean, theirs, subject, batches)
    except CannotRun as error:
        pairs = pair(clean.graph, theirs)
        blame, measured = Blame(clean.graph, theirs, pairs, tensor_pairs(clean.graph, theirs, pairs)), None
        faults = [] if theirs.quantized else blame.static()
        notes.append(f"onnxruntime cannot run the file ({error}); what follows is seen without running it")
    named = {id(fault.theirs or fault.ours) for fault in faults}
    silent = (
        []
        if theirs.quantized or measured is None
        else [f for f in blame.static() if id(f.theirs or f.ours) not in named]
    )
    halves = {}
    if clean.precision in HALVES:
        halves = rounding(clean.proto, clean.exact, clean.precision, blame.tensors, batches)
    modules = module_differences(clean.classifier, clean.exact, _weighted(clean), batches)
    return Findings(clean.layers, blame, measured, halves).document(faults, silent, notes, _exporter(modules))


def _examined(
    clean: Reference, theirs: Graph, subject: Any, batches: Sequence[Pixels]
) -> tuple[Blame, Measured, list[Fault]]:
    """Align, measure and name the nodes at fault.

    A rewritten graph (fused, reordered) has tensors that only seem to correspond. So a node that is at fault
    by its place is tried without its tensor: if all that is made of it agrees, it was no fault, and its
    tensor is compared no more.
    """
    pairs = pair(clean.graph, theirs)
    tensors = tensor_pairs(clean.graph, theirs, pairs)
    while True:
        blame = Blame(clean.graph, theirs, pairs, tensors)
        measured = measure(clean.runnable, subject, tensors, batches)
        faults = [] if theirs.quantized else blame.faults(measured)
        doubtful = {fault.tensor for fault in faults if fault.structural} | (
            measured.misfits if faults else set()
        )
        doubtful -= {tensor for op in clean.graph.ops if op.kind.startswith(OUTPUT) for tensor in op.outputs}
        if not doubtful:
            return blame, measured, faults
        rest = Blame(
            clean.graph,
            theirs,
            pairs,
            {ours: other for ours, other in tensors.items() if ours not in doubtful},
        )
        again = measure(clean.runnable, subject, rest.tensors, batches)
        apart = [tensor for tensor in rest.tensors if again.own[tensor].relative > UNEXPLAINED]
        guilty = {index for tensor in apart for index in rest.region(tensor, again.misfits)}
        excused = {tensor for tensor in doubtful if blame.our_makers[tensor] not in guilty}
        if not excused:
            return blame, measured, faults
        tensors = {ours: other for ours, other in tensors.items() if ours not in excused}


def _weighted(clean: Reference) -> dict[str, str]:
    """Each layer with weights of its own to the last tensor that the graph makes in it."""
    leaves = {
        name
        for name, module in clean.classifier.named_modules()
        if not list(module.children()) and list(module.parameters())
    }
    return {
        f"network.{layer}": op.outputs[0]
        for op in clean.graph.ops
        if f"network.{(layer := clean.layers[op.name])}" in leaves
    }


def _exporter(modules: Mapping[str, Apart]) -> dict[str, Any]:
    """How far the clean graph is from PyTorch itself: were they apart, a file could be right only by
    being wrong.
    """
    largest = max(modules, key=lambda layer: modules[layer].relative)
    apart = next((layer for layer, found in modules.items() if not found.relative <= EXPORTER), None)
    return {
        "largest": number(modules[largest].relative), "at": largest.removeprefix("network."),
        "first": apart and apart.removeprefix("network."), "by": apart and number(modules[apart].relative),
    }  # fmt: skip


def _contract(ours: Any, theirs: Any) -> list[str]:
    """What the file promises otherwise than the module: input, outputs, opset."""
    from onnx import TensorProto

    found = []
    for what, one, other in (
        ("input", ours.graph.input, theirs.graph.input),
        ("output", ours.graph.output, theirs.graph.output),
    ):
        names = [[value.name for value in values] for values in (one, other)]
        if names[0] != names[1]:
            found.append(f"{what}s are {', '.join(names[1]) or 'none'}; the module has {', '.join(names[0])}")
        for a, b in zip(one, other, strict=False):
            kinds = [TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in (a, b)]
            forms = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (a, b)]
            if kinds[0] != kinds[1] or forms[0] != forms[1]:
                found.append(
                    f"{what} {b.name} is {kinds[1]} {forms[1]}; the module has {kinds[0]} {forms[0]}"
                )
                if len(forms[0]) == len(forms[1]) and what == "input":
                    b.type.tensor_type.shape.CopyFrom(a.type.tensor_type.shape)  # so that it can be run
    opsets = [next((e.version for e in proto.opset_import if not e.domain), None) for proto in (ours, theirs)]
    if opsets[0] != opsets[1]:
        found.append(f"opset is {opsets[1]}; the module's graph has {opsets[0]}")
    return found
