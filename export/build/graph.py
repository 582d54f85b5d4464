"""From a classifier to canonical ONNX bytes: the same weights and tool versions
give the same file anywhere.
"""

from __future__ import annotations

import ast
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from export.build.folding import fold
from lfdeploy.errors import LfdeployError
from lfdeploy.models.backbone import Mean
from lfdeploy.models.deploy import Classifier
from lfdeploy.models.explain import explained
from lfdeploy.run import Run, sha256

OPSET = 18  # the oldest that the exporter writes; every onnxruntime from 1.14 on reads it
OPSET_GELU = 20  # the first with Gelu, which older ones spell out in five nodes that int8 would then round
OPSET_BF16 = 22  # the first in which bf16 convolutions are valid
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
METADATA = "lfdeploy"


def in_precision(
    classifier: Classifier, precision: str, size: int, temperature: float | None = None
) -> Classifier:
    """The classifier with its network folded and in the precision, and a temperature; the prologue and the
    outputs stay fp32.

    Folding comes first and happens in fp32: folding in half precision costs three times the error. int8
    begins as fp32: `export.build.quantize` works on the graph.
    """
    made = copy.deepcopy(classifier)
    made.temperature = temperature
    made.network = fold(classifier.network, size)
    for name, module in list(made.network.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            made.network.set_submodule(name, Mean())
    if precision in HALVES:
        made.network, made.dtype = made.network.to(HALVES[precision]), HALVES[precision]
    return made.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither the exporters' logs nor their warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace(classifier: Classifier, size: int, profile: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The classifier's graph from uint8 ``images`` (batch, size, size, 3), with a free batch up to the
    profile's MAX.
    """
    example = torch.from_numpy(np.zeros((2, size, size, 3), np.uint8))
    batch = torch.export.Dim("batch", min=1, max=max(profile[2], 2))
    with _quiet():
        return torch.export.export(classifier, (example,), dynamic_shapes=({0: batch},))


def opset_for(classifier: Classifier) -> int:
    """The oldest opset that says what a classifier in its precision does, in as few nodes."""
    if classifier.dtype == torch.bfloat16:
        return OPSET_BF16
    return OPSET_GELU if any(isinstance(module, nn.GELU) for module in classifier.modules()) else OPSET


def to_onnx(
    classifier: Classifier,
    size: int,
    profile: tuple[int, int, int],
    metadata: dict[str, Any],
    scopes: dict[str, str] | None = None,
) -> bytes:
    """Trace with a free batch dimension and serialise: input ``images``, the outputs by the
    classifier's names.

    ``scopes``, if given, is filled with the module that each node comes from; the bytes do not tell.
    """
    return with_metadata(_bare(classifier, size, profile, scopes), metadata)


def with_metadata(blob: bytes, metadata: dict[str, Any]) -> bytes:
    """A checked file that knows what it is."""
    import onnx

    proto = onnx.load_from_string(blob)
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(metadata, sort_keys=True, ensure_ascii=False)})
    onnx.checker.check_model(proto, full_check=True)
    text: bytes = proto.SerializeToString(deterministic=True)
    return text


def opset_of(blob: bytes) -> int:
    """The opset of a file's own operators."""
    import onnx

    return next(int(entry.version) for entry in onnx.load_from_string(blob).opset_import if not entry.domain)


@dataclass(frozen=True)
class Traced:
    """What decides a traced graph: the weights and spec.json of a run, by hash, and how one of its targets
    is exported.
    """

    run: Run
    weights: str
    spec: str
    target: str
    precision: str
    profile: tuple[int, int, int]
    temperature: float | None
    heat: bool

    def classifier(self) -> Classifier:
        """The target, folded and in the precision; int8 begins as fp32."""
        size = int(self.run.spec["image_size"])
        kind = "fp32" if self.precision == "int8" else self.precision
        made = in_precision(self.run.classifier(self.target), kind, size, self.temperature)
        return explained(made, self.target, self.run.spec) if self.heat else made

    def program(self) -> torch.export.ExportedProgram:
        """Traced anew."""
        return trace(self.classifier(), int(self.run.spec["image_size"]), self.profile)

    def onnx(self, metadata: dict[str, Any]) -> bytes:
        """The ONNX file; its graph is traced once for all files that share it, as int8 and fp32 do."""
        kind = "fp32" if self.precision == "int8" else self.precision
        return with_metadata(traced_graph(replace(self, precision=kind)), metadata)


def traced_of(
    run: Run,
    target: str,
    precision: str,
    profile: tuple[int, int, int],
    temperature: float | None,
    heat: bool,
) -> Traced:
    """`Traced` of a run as it is on disk now."""
    spec = json.dumps(run.spec, sort_keys=True)
    return Traced(run, sha256(run.weights), spec, target, precision, profile, temperature, heat)


@lru_cache(maxsize=16)
def traced_graph(traced: Traced) -> bytes:
    """The bytes of a graph without metadata."""
    return _bare(traced.classifier(), int(traced.run.spec["image_size"]), traced.profile, None)


def _bare(
    classifier: Classifier, size: int, profile: tuple[int, int, int], scopes: dict[str, str] | None
) -> bytes:
    import onnx

    opset = opset_for(classifier)
    program = trace(classifier, size, profile)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=list(classifier.outputs),
            external_data=False,
            optimize=True,
            verify=False,
            report=False,
            verbose=False,
        )
    assert made is not None
    proto = made.model_proto
    if scopes is not None:
        scopes.update(_scopes(proto))
    strip(proto)
    found = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    if found.get("ai.onnx") != opset:
        raise LfdeployError(f"the exporter wrote opset {found.get('ai.onnx')} where {opset} was asked for")
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    blob: bytes = proto.SerializeToString(deterministic=True)
    return blob


def _scopes(proto: Any) -> dict[str, str]:
    """Node name to the module's full name, as the exporter notes it: the last but one of the scopes, which
    end in the node's own.
    """
    noted = {
        node.name: entry.value
        for node in proto.graph.node
        for entry in node.metadata_props
        if entry.key.endswith("name_scopes")
    }
    return {
        name: [*ast.literal_eval(text)][-2] for name, text in noted.items() if len(ast.literal_eval(text)) > 1
    }


def strip(proto: Any) -> None:
    """Remove what tells of the machine: source paths and traces in metadata and doc
    strings, at every level.
    """
    proto.doc_string = ""
    proto.graph.doc_string = ""
    del proto.metadata_props[:]
    for owner in (proto.graph, *proto.functions):
        del owner.metadata_props[:]
        for node in owner.node:
            node.doc_string = ""
            del node.metadata_props[:]
    graph = proto.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.value_info, *graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = "batch"
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
