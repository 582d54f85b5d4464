"""`lfdeploy export --triton DIR`: a model repository that NVIDIA Triton loads, beside the published artifact.

DIR/NAME/config.pbtxt inputs, outputs, dynamic batching, warm-up DIR/NAME/labels.txt class names for Triton's
classification answers DIR/NAME/1/model.* the artifact's own bytes
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.artifact import Artifact
from lfdeploy.backends import executes
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.locks import take
from lfdeploy.run import shown

DELAY = 500  # microseconds that a request may wait for others
SIGNED = "# Written by lfdeploy; sha256 of what follows: "


@dataclass(frozen=True)
class Kind:
    """How Triton takes a backend's file; ``note`` is what its arithmetic needs to be that of the proof."""

    line: str
    file: str
    instances: str
    note: str


KINDS = {
    "onnxruntime": Kind(
        'platform: "onnxruntime_onnx"',
        "model.onnx",
        "KIND_AUTO",
        "on a GPU, NVIDIA_TF32_OVERRIDE=0 in the server's environment keeps fp32",
    ),
    "tensorrt": Kind(
        'platform: "tensorrt_plan"',
        "model.plan",
        "KIND_GPU",
        "the server needs the TensorRT version that built the engine",
    ),
    "openvino": Kind(
        'backend: "openvino"',
        "model.xml",
        "KIND_CPU",
        (
            "Triton's OpenVINO has no setting for f32 arithmetic: processors with bf16 round there; "
            "--format onnx does not"
        ),
    ),
}


def check(backend: str, repository: Path, names: Sequence[str], labels: Sequence[str]) -> None:
    """Raise `UsageError` for a backend that Triton has not, `LfdeployError` where a foreign directory is in
    the way or a class has no line of its own.
    """
    if backend == "tensorrt-rtx":
        raise UsageError(
            "--triton: Triton loads TensorRT's engines, not TensorRT-RTX's. Use --format onnx, or "
            "--engine tensorrt on a GPU."
        )
    if backend not in KINDS:
        raise UsageError("--triton takes --format onnx, openvino or trt.")
    broken = [label for label in labels if len(label.splitlines()) != 1]
    if broken:
        raise LfdeployError(
            f"--triton: the class name {broken[0]!r} is not one line, and labels.txt has one line per class."
        )
    for name in names:
        final = repository / name
        if final.exists() and not _ours(final):
            raise LfdeployError(
                f"{shown(final)} exists and is not as lfdeploy wrote it; move it away or choose "
                "another --triton."
            )


def _ours(place: Path) -> bool:
    """Whether a model's directory has a config.pbtxt as it was written here: neither foreign nor edited."""
    try:
        first, _, rest = (place / "config.pbtxt").read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return False
    return first == SIGNED + hashlib.sha256(rest.encode()).hexdigest()


def write(artifact: Artifact, repository: Path) -> Path:
    """Put a published artifact into a repository by one rename and return its place there."""
    backend = executes(artifact.manifest)
    labels = artifact.manifest["labels"]
    check(backend, repository, [artifact.name], labels)
    partial = repository / f".{artifact.name}.{secrets.token_hex(4)}"
    final, aside = repository / artifact.name, partial.with_name(f"{partial.name}.old")
    repository.mkdir(parents=True, exist_ok=True)

    def waiting(owner: str) -> None:
        say(f"{shown(final)} is being written by {owner}; waiting for it.")

    lock = take(repository / f".{artifact.name}.lock", waiting)
    try:
        (partial / "1").mkdir(parents=True)
        for name in artifact.hashes:
            target = KINDS[backend].file if name == artifact.manifest["file"] else name
            shutil.copyfile(artifact.path / name, partial / "1" / target)
        (partial / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        text = config(artifact.name, artifact.manifest)
        signed = f"{SIGNED}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
        (partial / "config.pbtxt").write_text(signed, encoding="utf-8")
        if final.exists():
            os.rename(final, aside)
        os.rename(partial, final)
    finally:
        if aside.exists() and not final.exists():  # what was served stays served
            os.rename(aside, final)
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()
    shutil.rmtree(aside, ignore_errors=True)
    say(f"Triton: {shown(final)}; {KINDS[backend].note}.")
    if artifact.verdict != "pass":
        say(f"Triton: {artifact.name} is there UNVERIFIED: {artifact.manifest['parity']['reason']}.")
    return final


def config(name: str, manifest: dict[str, Any]) -> str:
    """config.pbtxt for an artifact."""
    kind = KINDS[executes(manifest)]
    height, width, classes = manifest["input"]["height"], manifest["input"]["width"], len(manifest["labels"])
    opt, most = int(manifest["batch"]["opt"]), int(manifest["batch"]["max"])
    more = "".join(
        f'\noutput {{ name: "{o["name"]}" data_type: TYPE_FP32 dims: {o["shape"][1:]} }}'
        for o in manifest["outputs"][2:]
    )
    # onnxruntime's CPU has no bf16
    instances = "KIND_GPU" if manifest["precision"] == "bf16" else kind.instances
    preferred = sorted({opt, most} - {1})
    batching = (
        f"dynamic_batching {{ preferred_batch_size: {preferred} max_queue_delay_microseconds: {DELAY} }}"
        if preferred
        else ""
    )
    warm = "\n".join(
        f'model_warmup {{ name: "batch {size}" batch_size: {size} inputs {{ key: "images" value '
        f"{{ data_type: TYPE_UINT8 dims: [{height}, {width}, 3] zero_data: true }} }} }}"
        for size in sorted({1, opt, most})
    )
    return f"""\
name: {json.dumps(name, ensure_ascii=False)}
{kind.line}
max_batch_size: {most}
input {{ name: "images" data_type: TYPE_UINT8 dims: [{height}, {width}, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{classes}] label_filename: "labels.txt" }}{more}
instance_group {{ count: 1 kind: {instances} }}
{batching}
{warm}
# Note: {kind.note}.
"""
