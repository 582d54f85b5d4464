"""Every tensor of two graphs, compared on pictures: accumulated, and each node for itself on the file's
own inputs.

Only statistics are kept: a batch's tensors live as long as it takes to compare them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bisect.halves import rounded
from lfdeploy.backends.onnxruntime import session_options
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels


@dataclass
class Apart:
    """How far one tensor is from another over all batches; squares for the signal-to-noise ratio."""

    largest: float = 0.0
    scale: float = 0.0
    noise: float = 0.0
    signal: float = 0.0

    def add(self, reference: NDArray[Any], tensor: NDArray[Any]) -> None:
        """One batch. Equal infinities and NaN in the same place are equal."""
        if reference.shape != tensor.shape:
            self.largest = self.noise = float("inf")
            return
        if not reference.size:
            return
        kind = np.float32 if reference.dtype == tensor.dtype == np.float32 else np.float64
        a: Any = reference.astype(kind, copy=False).ravel()
        b: Any = tensor.astype(kind, copy=False).ravel()
        equal = np.array_equal(a, b)  # the usual case, and cheap
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.zeros(1, kind) if equal else np.abs(a - b)
            highest = max(float(a.max()), -float(a.min()))
        if not np.isfinite([float(apart.max()), highest]).all():
            with np.errstate(invalid="ignore"):
                apart = np.nan_to_num(
                    np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, apart), nan=np.inf, posinf=np.inf
                )
            a = np.where(np.isfinite(a), a, 0).astype(kind)
            highest = float(np.abs(a).max())
        worst = float(apart.max())
        self.largest, self.scale = max(self.largest, worst), max(self.scale, highest)
        self.noise += float((apart.astype(np.float64) ** 2).sum()) if np.isfinite(worst) else float("inf")
        self.signal += float((a.astype(np.float64) ** 2).sum())

    @property
    def relative(self) -> float:
        """The largest difference divided by the tensor's scale."""
        return self.largest / self.scale if self.scale else float("inf") if self.largest else 0.0

    @property
    def sqnr(self) -> float:
        """Signal to noise in dB: infinite without noise, -100 at the least."""
        if not self.noise:
            return float("inf")
        return (
            max(-100.0, float(10 * np.log10(self.signal / self.noise)))
            if self.signal and np.isfinite(self.noise)
            else -100.0
        )


@dataclass
class Measured:
    """Per tensor of the module's graph: accumulated, and of the node's own making.

    ``misfits``: tensors of another shape.

    ``own`` compares the file's tensor with what the module's node makes of the very inputs that the file's
    node had.
    """

    chain: dict[str, Apart] = field(default_factory=dict)
    own: dict[str, Apart] = field(default_factory=dict)
    misfits: set[str] = field(default_factory=set)


class CannotRun(LfdeployError):
    """onnxruntime refuses a graph, at loading or at running; the text is its first line."""


class Probe:
    """A graph in onnxruntime without any optimisation, every wanted tensor an output."""

    def __init__(self, proto: Any, wanted: Iterable[str]) -> None:
        import onnx
        import onnxruntime as ort

        made = onnx.ModelProto()
        made.CopyFrom(proto)
        self.wanted = list(dict.fromkeys(wanted))
        del made.graph.value_info[:], made.graph.output[:]
        made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.wanted)
        options = session_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = options.enable_cpu_mem_arena = (
            False  # every tensor is an output: nothing to reuse, all to give back
        )
        try:
            self.session = ort.InferenceSession(
                made.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises many kinds
            raise CannotRun(first_line(error)) from None
        self.types = {i.name: i.type for i in self.session.get_inputs()}

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every wanted tensor by name."""
        cast = {
            "tensor(float)": np.float32,
            "tensor(float16)": np.float16,
            "tensor(uint8)": np.uint8,
            "tensor(double)": np.float64,
        }
        fed = {
            name: feeds[name].astype(cast.get(kind, feeds[name].dtype), copy=False)
            for name, kind in self.types.items()
        }
        try:
            return dict(zip(self.wanted, self.session.run(self.wanted, fed), strict=True))
        except Exception as error:  # onnxruntime raises many kinds
            raise CannotRun(first_line(error)) from None


def first_line(error: Exception) -> str:
    """What an exception says, short enough for a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _cut(proto: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
    """The module's graph, cut at tensors: consumers read them as inputs of the graph, makers
    write ``NAME/own``.
    """
    import onnx
    from onnx import helper

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for node in made.graph.node:
        node.output[:] = [f"{name}/own" if name in tensors else name for name in node.output]
    for name, value in tensors.items():
        made.graph.input.append(
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
            )
        )
    return made


def measure(ours: Any, theirs: Any, tensors: Mapping[str, str], batches: Sequence[Pixels]) -> Measured:
    """Compare tensors of the module's graph with those of the file's (``tensors``: ours to theirs) on
    pictures (B, H, W, 3).

    Raises `CannotRun` when the file cannot be executed.
    """
    found = Measured({name: Apart() for name in tensors}, {name: Apart() for name in tensors})
    subject = Probe(theirs, tensors.values())
    reference = Probe(ours, tensors)
    source, given = ours.graph.input[0].name, [value.name for value in theirs.graph.input]
    if len(given) != 1:
        raise CannotRun(f"it has {len(given)} inputs where the module has one")
    local: Probe | None = None
    for pictures in batches:
        made = subject({given[0]: pictures})
        clean = reference({source: pictures})
        for name, twin in tensors.items():
            found.chain[name].add(clean[name], made[twin])
        if local is None:
            found.misfits = {name for name, twin in tensors.items() if clean[name].shape != made[twin].shape}
            fitting = {name: clean[name] for name in tensors if name not in found.misfits}
            local = Probe(
                _cut(ours, fitting), [f"{name}/own" if name in fitting else name for name in tensors]
            )
            kinds = {name: value.dtype for name, value in fitting.items()}
        del clean
        alone = local(
            {source: pictures}
            | {name: made[tensors[name]].astype(kind, copy=False) for name, kind in kinds.items()}
        )
        for name, twin in tensors.items():
            found.own[name].add(alone[f"{name}/own" if name in kinds else name], made[twin])
    return found


def rounding(
    proto: Any, wide: Any, precision: str, tensors: Iterable[str], batches: Sequence[Pixels]
) -> dict[str, Apart]:
    """How far the clean half-precision graph, every tensor rounded, is from the graph with fp32
    weights (``wide``).
    """
    half, names = rounded(proto, precision)
    wanted = [name for name in tensors if name in names]
    found = {name: Apart() for name in wanted}
    one, other = Probe(wide, wanted), Probe(half, [names[name] for name in wanted])
    source = proto.graph.input[0].name
    for pictures in batches:
        exact, made = one({source: pictures}), other({source: pictures})
        for name in wanted:
            found[name].add(exact[name], made[names[name]])
    return found


def module_differences(
    classifier: Any, proto: Any, layers: Mapping[str, str], batches: Sequence[Pixels]
) -> dict[str, Apart]:
    """How far the exported fp32 graph is from the PyTorch module:

    ``layers`` names the tensor of each layer with weights.
    """
    import torch

    modules = dict(classifier.named_modules())
    known = {layer: tensor for layer, tensor in layers.items() if layer in modules}
    probe = Probe(proto, [*known.values(), "logits"])
    found = {layer: Apart() for layer in (*known, "logits")}
    values: dict[str, NDArray[Any]] = {}

    calls = dict.fromkeys(known, 0)

    def compare(layer: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            calls[layer] += 1
            found[layer].add(output.numpy(), values[known[layer]])

        return hook

    hooks = [modules[layer].register_forward_hook(compare(layer)) for layer in known]
    try:
        for pictures in batches:
            values = probe({proto.graph.input[0].name: pictures})
            with torch.no_grad():
                found["logits"].add(
                    classifier(torch.from_numpy(np.ascontiguousarray(pictures)))[0].numpy(), values["logits"]
                )
    finally:
        for hook in hooks:
            hook.remove()
    # a layer used twice has two tensors
    return {layer: apart for layer, apart in found.items() if calls.get(layer, 0) in (0, len(batches))}


def load(path: Any) -> Any:
    """A model file. Raises `LfdeployError` when it is not one, or its weights lie elsewhere."""
    import onnx

    try:
        proto = onnx.load(path)
        if not proto.graph.node:
            raise ValueError("it holds no node")
    except Exception as error:  # protobuf and external-data errors of many kinds
        raise LfdeployError(
            f"{path.name} cannot be read as ONNX ({first_line(error)}): no layer to name. Export it again."
        ) from None
    return proto
