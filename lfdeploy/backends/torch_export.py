"""torch.export's .pt2: the traced classifier with its weights, opened by torch alone on the CPU or a
CUDA GPU.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

from lfdeploy.backends.alike import SAME, tensor_difference
from lfdeploy.backends.base import Backend, Floats, Material, Session, Source, checked, output_names
from lfdeploy.backends.facts import Facts, Value
from lfdeploy.backends.pytorch import missing
from lfdeploy.devices import pick
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels

METADATA = "lfdeploy"  # the extra file with what a lone file knows of itself


def read_program(file: Path) -> tuple[Any, dict[str, Any]]:
    """The `ExportedProgram` of a .pt2 file, and what it says of itself (empty where that is not readable).

    Raises `LfdeployError` for a file that torch.export does not read.
    """
    import torch

    extra = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            # torch 2.11's own, about its reading of the file
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            program = torch.export.load(file, extra_files=extra)
    except Exception as error:  # zip, json, schema and pickle errors are of many kinds
        raise LfdeployError(
            f"{file.name} cannot be read by torch.export: "
            f"{(str(error).splitlines() or ['no reason given'])[0][:200]}"
        ) from None
    told = json.loads(extra[METADATA] or "{}")
    return program, told if isinstance(told, dict) else {}


def read_facts(path: Path) -> Facts:
    """What a torch.export program says of itself. Raises `LfdeployError` for a damaged one."""
    from torch import SymInt

    program, told = read_program(path)
    signature, nodes = program.graph_signature, {node.name: node for node in program.graph.nodes}

    def value(name: str, node: str) -> Value:
        tensor = nodes[node].meta["val"]
        free = bool(tensor.shape) and isinstance(tensor.shape[0], SymInt)
        rest = tuple(0 if isinstance(d, SymInt) else int(d) for d in tensor.shape[1:])
        return Value(name, free, rest, str(tensor.dtype).removeprefix("torch."))

    outputs = [str(name) for name in signature.user_outputs]
    # a program's outputs are a tuple; what they are is told beside it
    names = [o["name"] for o in told.get("outputs", [])]
    if len(names) != len(outputs):
        names = outputs
    return Facts(
        "program", tuple(value(str(n), str(n)) for n in signature.user_inputs),
        tuple(value(name, node) for name, node in zip(names, outputs, strict=True)), told,
    )  # fmt: skip


def difference(file: Path, again: Path, precision: str) -> str:
    """`program_difference` of two files."""
    return program_difference(read_program(file)[0], read_program(again)[0], precision)


def program_difference(found: Any, wanted: Any, precision: str) -> str:
    """Between two `torch.export.ExportedProgram`."""
    from torch.fx import GraphModule

    sides = found, wanted
    codes = [
        {name: m.code for name, m in side.graph_module.named_modules() if isinstance(m, GraphModule)}
        for side in sides
    ]
    if codes[0] != codes[1]:
        return "the program's code"
    if str(found.graph_signature) != str(wanted.graph_signature):
        return "inputs, outputs or weights of the program"
    if str(found.range_constraints) != str(wanted.range_constraints):
        return "the sizes that the program takes"
    tensors = [
        {name: t.detach().cpu().numpy() for name, t in {**side.state_dict, **side.constants}.items()}
        for side in sides
    ]
    return tensor_difference(tensors[0], tensors[1], precision) or SAME


def _build(material: Material, out: Path) -> dict[str, Any]:
    import torch

    program = material.program()
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it holds paths of this machine
    buffer = io.BytesIO()  # a file's own name would become part of the bytes
    torch.export.save(
        program,
        buffer,
        extra_files={METADATA: json.dumps(material.facts, sort_keys=True, ensure_ascii=False)},
    )
    out.write_bytes(buffer.getvalue())
    return {}


class ProgramSession:
    """An exported program's module on one device."""

    backend = "torch-export"

    def __init__(self, source: Source, device: str) -> None:
        import torch
        from torch.export.passes import move_to_device_pass

        self.torch, self.manifest, self.device = torch, source.manifest, pick(device)
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
        program = read_program(source.file)[0]
        if self.device != "cpu":
            program = move_to_device_pass(program, self.device)
        self.module = program.module()

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        x = self.torch.from_numpy(checked(images, self.manifest)).to(self.device)
        try:
            with self.torch.inference_mode():
                found = self.module(x)
        except AssertionError as error:  # the program's own guards
            raise ValueError(f"the program refuses the shape {tuple(x.shape)}: {error}") from None
        return {
            name: value.cpu().numpy() for name, value in zip(output_names(self.manifest), found, strict=True)
        }


def _open(source: Source, device: str) -> Session:
    return ProgramSession(source, device)


BACKEND = Backend(
    about="torch.export's program on CPU or CUDA",
    format="torch",
    file="model.pt2",
    missing=missing,
    cannot_run=missing,
    build=_build,
    open=_open,
    facts=read_facts,
    difference=difference,
    precisions=("fp32",),
)
