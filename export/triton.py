"""`lfdeploy export --triton DIR`: a model repository that NVIDIA Triton loads, beside the published artifact.

DIR/NAME holds config.pbtxt (inputs, outputs, dynamic batching, warm-up), labels.txt (class names for Triton's
classification answers) and 1/model.*, the artifact's own bytes. With ``--triton-pictures`` DIR/NAME-pictures
is an ensemble that takes files: DIR/NAME-decode makes pixels of them, by lfdeploy's own function.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfdeploy.artifact import Artifact
from lfdeploy.backends import executes
from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.locks import take
from lfdeploy.run import shown

STEP = Path(__file__).with_name("triton_step.py")
NEEDS = "lfdeploy (pip install --no-deps, of its wheel or sources), numpy and pillow"
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


def names_of(name: str, pictures: bool) -> list[str]:
    """The models that an artifact of that name becomes."""
    return [name, f"{name}-decode", f"{name}-pictures"] if pictures else [name]


def write(artifact: Artifact, repository: Path, pictures: bool = False) -> Path:
    """Put a published artifact into a repository and return its place there; each model comes by one rename.
    ``pictures``: with an ensemble that takes files.
    """
    backend = executes(artifact.manifest)
    labels = artifact.manifest["labels"]
    names = names_of(artifact.name, pictures)
    check(backend, repository, names, labels)
    final = _put(
        repository, artifact.name, config(artifact.name, artifact.manifest), _files(artifact, backend)
    )
    if pictures:
        _put(repository, names[1], decoding(names[1], artifact.manifest), {"1/model.py": STEP})
        _put(repository, names[2], ensemble(names, artifact.manifest), {})
    say(f"Triton: {shown(final)}; {KINDS[backend].note}.")
    if pictures:
        say(f"Triton: {names[2]} takes files; the server's Python needs {NEEDS}.")
    if artifact.verdict != "pass":
        say(f"Triton: {artifact.name} is there UNVERIFIED: {artifact.manifest['parity']['reason']}.")
    return final


def _files(artifact: Artifact, backend: str) -> dict[str, Path | str]:
    """What stands beside config.pbtxt: files by their place, or a text."""
    files: dict[str, Path | str] = {
        "labels.txt": "".join(f"{label}\n" for label in artifact.manifest["labels"])
    }
    for name in artifact.hashes:
        target = KINDS[backend].file if name == artifact.manifest["file"] else name
        files[f"1/{target}"] = artifact.path / name
    return files


def _put(repository: Path, name: str, text: str, files: Mapping[str, Path | str]) -> Path:
    """One model's directory, by one rename, in the place of an older one."""
    partial = repository / f".{name}.{secrets.token_hex(4)}"
    final, aside = repository / name, partial.with_name(f"{partial.name}.old")
    repository.mkdir(parents=True, exist_ok=True)

    def waiting(owner: str) -> None:
        say(f"{shown(final)} is being written by {owner}; waiting for it.")

    lock = take(repository / f".{name}.lock", waiting)
    try:
        (partial / "1").mkdir(parents=True)
        for place, source in files.items():
            if isinstance(source, Path):
                shutil.copyfile(source, partial / place)
            else:
                (partial / place).write_text(source, encoding="utf-8")
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


def decoding(name: str, manifest: dict[str, Any]) -> str:
    """config.pbtxt for the step that makes pixels of files."""
    size, rule = manifest["input"]["height"], json.dumps(manifest["input"]["resize"], ensure_ascii=False)
    return f"""\
name: {json.dumps(name, ensure_ascii=False)}
backend: "python"
max_batch_size: {manifest["batch"]["max"]}
input {{ name: "encoded" data_type: TYPE_STRING dims: [1] }}
output {{ name: "images" data_type: TYPE_UINT8 dims: [{size}, {size}, 3] }}
instance_group {{ count: 2 kind: KIND_CPU }}
parameters {{ key: "size" value {{ string_value: "{size}" }} }}
parameters {{ key: "resize" value {{ string_value: {json.dumps(rule, ensure_ascii=False)} }} }}
# Note: the server's Python needs {NEEDS}.
"""


def ensemble(names: Sequence[str], manifest: dict[str, Any]) -> str:
    """config.pbtxt for files in, answers out; ``names``: of the model, of the step before it, and its own."""
    model, step, own = (json.dumps(name, ensure_ascii=False) for name in names)
    outputs = {str(output["name"]): output["shape"][1:] for output in manifest["outputs"]}
    told = "\n".join(
        f'output {{ name: "{name}" data_type: TYPE_FP32 dims: {list(dims)} }}'
        for name, dims in outputs.items()
    )
    maps = " ".join(f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs)
    return f"""\
name: {own}
platform: "ensemble"
max_batch_size: {manifest["batch"]["max"]}
input {{ name: "encoded" data_type: TYPE_STRING dims: [1] }}
{told}
ensemble_scheduling {{
  step {{ model_name: {step} model_version: -1
    input_map {{ key: "encoded" value: "encoded" }} output_map {{ key: "images" value: "pixels" }} }}
  step {{ model_name: {model} model_version: -1
    input_map {{ key: "images" value: "pixels" }} {maps} }}
}}
"""
