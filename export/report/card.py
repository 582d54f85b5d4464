"""The model card: what an artifact is, how good, how proven, and how to load it in a few lines."""

from __future__ import annotations

import re
from typing import Any

from export.parity.members import table
from export.report.load import load_lines
from export.report.reliability import card_section
from lfdeploy import by_class, familiarity
from lfdeploy.chance import SENTENCE
from lfdeploy.labels import counted
from lfdeploy.models.explain import HEATMAP
from lfdeploy.models.multi_output import ALL

MOST_CLASSES = 100  # rows of a table
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def model_card(manifest: dict[str, Any]) -> str:
    """Markdown from a manifest; nothing in it that is not in the manifest."""
    run, parity = manifest["run"], manifest["parity"]
    lines = [
        f"# {manifest['target']}, {manifest['format']} {manifest['precision']}",
        "",
        f"An image classifier: {_networks(manifest)}. Trained with lfdeploy ({run['method']}, "
        f"{counted(run['epochs'], 'epoch')} on {_name(run['data'])}).",
        "",
        "| | |",
        "| --- | --- |",
        *_file_rows(manifest),
        *_accuracy_rows(manifest["accuracy"]),
        *_int8_rows(manifest),
        *_familiarity_rows(manifest),
        *_speed_rows(manifest),
        *_balanced_rows(manifest["accuracy"]),
        *_chance_rows(manifest["accuracy"]),
        f"| parity | **{parity['verdict']}**{': ' + parity['reason'] if parity['reason'] else ''} |",
        "",
        *_engine_lines(manifest),
        "## Load it",
        "",
        "```python",
        *load_lines(manifest),
        "```",
        "",
        "Pictures are turned upright (EXIF), converted to RGB, cropped to the largest centred "
        "square and resized with antialiasing (Pillow, bilinear), as in training. `lfdeploy predict` "
        "does just that; it also lays transparent pictures on white and scales those of 16 bits a "
        "sample, which these lines do not.",
        "",
        *_report_lines(manifest),
        *_class_lines(manifest),
        *card_section(manifest),
        *_parity_lines(parity),
    ]
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    """A name that somebody gave, as it is: nothing in it is Markdown or HTML."""
    return re.sub(r"([\\|*`~<>&\[\]])", r"\\\1", str(text))


def _networks(manifest: dict[str, Any]) -> str:
    """Which networks the artifact computes, and how their outputs are put together."""
    target, networks = str(manifest["target"]), manifest["run"]["networks"]
    archs = " + ".join(manifest["run"]["archs"])
    if target == ALL:
        return (
            f"every output of {archs}, each backbone computed once; `logits` and `probabilities` are "
            f"those of `{manifest['main']}`"
        )
    if target == "fused":
        return f"the fused classifier of {archs}: all peers and their end fusion"
    if len(networks) == 1:
        return f"{target}, one {networks[0]}"
    return f"the mean of the logits of {' + '.join(networks)}"


def _file_rows(manifest: dict[str, Any]) -> list[str]:
    """Classes, input, outputs, batches and bytes."""
    labels, size, batch = manifest["labels"], manifest["input"]["height"], manifest["batch"]
    some = ", ".join(map(_name, labels[:12])) + (f", ... ({len(labels)} in all)" if len(labels) > 12 else "")
    heat = [one for one in manifest["outputs"] if one["name"] == HEATMAP]
    outputs = ", ".join(f"`{one['name']}`" for one in manifest["outputs"] if one not in heat)
    files = {manifest["file"]: manifest["sha256"]} | {
        name: told["sha256"] for name, told in manifest.get("files", {}).items()
    }
    hashes = " + ".join(f"`{value[:16]}`" for value in files.values())
    return [
        f"| classes | {some} |",
        f"| input | `images`: uint8, NHWC, {size}x{size} RGB; normalisation is inside |",
        f"| outputs | {outputs}: float32, (batch, {len(labels)}) |",
        *[
            f"| heat map | `{HEATMAP}`: float32, (batch, {o['shape'][1]}, {o['shape'][2]}); its "
            "mean is the top logit |"
            for o in heat
        ],
        f"| batch | {batch['min']} to {batch['max']} |",
        f"| file | {' + '.join(f'`{n}`' for n in files)}, {manifest['bytes']:,} bytes, sha256 {hashes} |",
    ]


def _accuracy_rows(accuracy: dict[str, Any] | None) -> list[str]:
    """Top-1 beside that of the module, of the main output and of every member."""
    if not accuracy:
        return []
    whose = "test pictures"
    if "data" in accuracy:
        whose = f"pictures of {_name(accuracy['data'])}"
        if accuracy["trained_on"] is not None:
            whose += f", {accuracy['trained_on'] or 'none'} of them trained on"
    return [
        f"| top-1 | {accuracy['top1']:.2f} % on {accuracy['images']:,} {whose} "
        f"(PyTorch: {accuracy['top1_reference']:.2f} %), measured with {accuracy['measured_on']} |",
        *[
            f"| top-1 of `{output}` | {top1:.2f} % (PyTorch: {module:.2f} %) |"
            for output, top1, module in table(accuracy)
        ],
    ]


def _balanced_rows(accuracy: dict[str, Any] | None) -> list[str]:
    """What top-1 hides where classes are unequally frequent."""
    if not accuracy or "macro_f1" not in accuracy:
        return []
    return [
        f"| class by class | balanced accuracy {accuracy['balanced']:.2f} %, "
        f"macro-F1 {accuracy['macro_f1']:.2f} |"
    ]


def _class_lines(manifest: dict[str, Any]) -> list[str]:
    """The section with a row per class, the least recognised first."""
    found = by_class.rows(manifest["accuracy"], manifest["labels"])
    if not found:
        return []
    lines = [
        "## Class by class",
        "",
        "| class | recognised | of pictures | most often taken for |",
        "| --- | ---: | ---: | --- |",
    ]
    for one in found[:MOST_CLASSES]:
        other = f"{_name(one.taken_for)} ({one.mistaken})" if one.taken_for else ""
        lines.append(f"| {_name(one.name)} | {one.recall:.1f} % | {one.images:,} | {other} |")
    if len(found) > MOST_CLASSES:
        lines += ["", f"{len(found) - MOST_CLASSES} classes that are recognised better are left out."]
    return [*lines, ""]


def _int8_rows(manifest: dict[str, Any]) -> list[str]:
    if "calibration" not in manifest:
        return []
    told = manifest["calibration"]
    return [
        f"| int8 | {told['scheme'].upper()}, calibrated on {told['pictures']} training "
        "pictures, none of them in the test split; "
        f"{told['calibrator']}, the best of {len(told['tries'])} calibrators on held-out pictures |"
    ]


def _familiarity_rows(manifest: dict[str, Any]) -> list[str]:
    """How well pictures are told that are unlike those of training."""
    block = manifest.get(familiarity.KEY)
    if not isinstance(block, dict):
        return []
    if block["threshold"] is None:
        return [f"| pictures unlike the training ones | cannot be told: {block['reason']} |"]
    found = manifest["parity"].get("familiarity") or block["test"]
    worth = ", ".join(f"{value:.1f} % for {kind}" for kind, value in block["test"]["auroc"].items())
    return [
        "| pictures unlike the training ones | told by their logits (`unfamiliar`): "
        f"{found['familiar']:,} of {found['images']:,} test pictures are familiar; AUROC {worth} |"
    ]


def _speed_rows(manifest: dict[str, Any]) -> list[str]:
    if "speedup_over_fp32" not in manifest:
        return []
    speedup = manifest["speedup_over_fp32"]
    times = [
        f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f}) at batch {batch}"
        for batch, one in speedup.items()
    ]
    cpu = "the CPU that exported it" + (f" ({manifest['cpu']})" if "cpu" in manifest else "")
    slower = max(one["ratio"] for one in speedup.values()) < 1
    remark = "; **slower than fp32 there**: int8 sums in hardware need VNNI or AMX" if slower else ""
    how = (
        f"{RUNTIMES.get(manifest['format'], manifest['format'])}, one thread of {cpu}, 95 % intervals{remark}"
    )
    return [f"| speed against its fp32 sibling | {', '.join(times)}; {how} |"]


def _chance_rows(accuracy: dict[str, Any] | None) -> list[str]:
    """A warning where the accuracy is not above chance."""
    if not accuracy or accuracy.get("chance", {}).get("above", True):
        return []
    return [f"| **warning** | this network is {SENTENCE} ({accuracy['chance']['majority']:.2f} %) |"]


def _engine_lines(manifest: dict[str, Any]) -> list[str]:
    if "engine" not in manifest:
        return []
    engine, batch = manifest["engine"], manifest["batch"]
    return [
        f"Built by {engine['package']} {engine['version']} for compute capability "
        f"{', '.join(engine['compute_capabilities'])}; a plain engine file, batch profile "
        f"{batch['min']}:{batch['opt']}:{batch['max']}.",
        "",
    ]


def _parity_lines(parity: dict[str, Any]) -> list[str]:
    """The section with a row per check."""
    lines = [
        "## Parity",
        "",
        f"Against the run's fp32 PyTorch module; subject: {parity['subject']}.",
        "",
        "| stage | check | value | bound | |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for check in parity["checks"]:
        value, bound = _cell(check["value"]), _cell(check["bound"])
        passed = "ok" if check["passed"] else "FAILED"
        lines.append(f"| {check['stage']} | {check['name']} | {value} | {bound} | {passed} |")
    for one in parity.get("not_examined", ()):
        lines.append(f"| {one['stage']} | not examined: {one['reason']} | | | |")
    return lines


#: What a runtime tells its maker, and how it is kept from that; lfdeploy does so by itself.
REPORTS = {
    "onnx": "onnxruntime from 1.31 on reports its sessions to its maker, unless `ORT_DISABLE_TELEMETRY=1` is "
    "set before it is imported.",
    "openvino": "openvino reports its import to its maker, unless `opt_in_out --opt_out` was called once.",
}


def _report_lines(manifest: dict[str, Any]) -> list[str]:
    return [REPORTS[manifest["format"]], ""] if manifest["format"] in REPORTS else []


def _cell(value: float | str) -> str:
    text = value if isinstance(value, str) else f"{value:.3g}"
    text = text.replace("|", "/")
    return text if len(text) <= 40 else text[:37] + "..."
