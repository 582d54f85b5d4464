"""The model card: what an artifact is, how good, how proven, and how to load it in five lines."""

from __future__ import annotations

from typing import Any

from export.parity.members import table
from export.report.reliability import card_section
from lfdeploy.chance import SENTENCE
from lfdeploy.models.explain import HEATMAP
from lfdeploy.models.together import ALL

RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def model_card(manifest: dict[str, Any]) -> str:
    """Markdown from a manifest; nothing in it that is not in the manifest."""
    run, size, accuracy, parity = manifest["run"], manifest["input"]["height"], manifest["accuracy"], manifest["parity"]
    archs = " + ".join(run["archs"])
    target, networks = str(manifest["target"]), run["networks"]
    if target == ALL:
        what = f"every output of {archs}, each backbone computed once; `logits` and `probabilities` are those of `{manifest['main']}`"
    elif target == "fused":
        what = f"the fused classifier of {archs}: all peers and their end fusion"
    elif len(networks) == 1:
        what = f"{target}, one {networks[0]}"
    else:
        what = f"the mean of the logits of {' + '.join(networks)}"
    labels = manifest["labels"]
    some = ", ".join(labels[:12]) + (f", ... ({len(labels)} in all)" if len(labels) > 12 else "")
    files = {manifest["file"]: manifest["sha256"]} | {name: told["sha256"] for name, told in manifest.get("files", {}).items()}
    hashes = " + ".join(f"`{value[:16]}`" for value in files.values())
    heat = [one for one in manifest["outputs"] if one["name"] == HEATMAP]
    outputs = ", ".join(f"`{one['name']}`" for one in manifest["outputs"] if one not in heat)
    lines = [
        f"# {manifest['target']}, {manifest['format']} {manifest['precision']}",
        "",
        f"An image classifier: {what}. Trained with lfdeploy ({run['method']}, {run['epochs']} epochs on {run['data']}).",
        "",
        "| | |",
        "| --- | --- |",
        f"| classes | {some} |",
        f"| input | `images`: uint8, NHWC, {size}x{size} RGB; normalisation is inside |",
        f"| outputs | {outputs}: float32, (batch, {len(labels)}) |",
        *[f"| heat map | `{HEATMAP}`: float32, (batch, {o['shape'][1]}, {o['shape'][2]}); its mean is the top logit |" for o in heat],
        f"| batch | {manifest['batch']['min']} to {manifest['batch']['max']} |",
        f"| file | {' + '.join(f'`{n}`' for n in files)}, {manifest['bytes']:,} bytes, sha256 {hashes} |",
    ]
    if accuracy:
        whose = "test pictures"
        if "data" in accuracy:
            whose = f"pictures of {accuracy['data']}, {accuracy['trained_on'] or 'none'} of them trained on"
            whose = whose if accuracy["trained_on"] is not None else f"pictures of {accuracy['data']}"
        lines.append(
            f"| top-1 | {accuracy['top1']:.2f} % on {accuracy['images']:,} {whose} "
            f"(PyTorch: {accuracy['top1_reference']:.2f} %), measured with {accuracy['measured_on']} |"
        )
        for output, top1, module in table(accuracy):
            lines.append(f"| top-1 of `{output}` | {top1:.2f} % (PyTorch: {module:.2f} %) |")
    if "calibration" in manifest:
        told = manifest["calibration"]
        lines.append(
            f"| int8 | {told['scheme'].upper()}, calibrated on {told['pictures']} training pictures, none of them in the test split; "
            f"{told['calibrator']}, the best of {len(told['tries'])} calibrators on held-out pictures |"
        )
    if "speedup_over_fp32" in manifest:
        runtime = RUNTIMES[manifest["format"]]
        times = [
            f"{one['ratio']:.2f} ({one['low']:.2f} to {one['high']:.2f}) at batch {b}" for b, one in manifest["speedup_over_fp32"].items()
        ]
        cpu = "the CPU that exported it" + (f" ({manifest['cpu']})" if "cpu" in manifest else "")
        slower = max(one["ratio"] for one in manifest["speedup_over_fp32"].values()) < 1
        remark = "; **slower than fp32 there**: int8 sums in hardware need VNNI or AMX" if slower else ""
        how = f"{runtime}, one thread of {cpu}, 95 % intervals{remark}"
        lines.append(f"| speed against its fp32 sibling | {', '.join(times)}; {how} |")
    if accuracy and not accuracy.get("chance", {}).get("above", True):
        lines.append(f"| **warning** | this network is {SENTENCE} ({accuracy['chance']['majority']:.2f} %) |")
    lines += [f"| parity | **{parity['verdict']}**{': ' + parity['reason'] if parity['reason'] else ''} |", ""]
    if "engine" in manifest:
        engine = manifest["engine"]
        lines += [
            f"Built by {engine['package']} {engine['version']} for compute capability {', '.join(engine['compute_capabilities'])}; "
            f"a plain engine file, batch profile {manifest['batch']['min']}:{manifest['batch']['opt']}:{manifest['batch']['max']}.",
            "",
        ]
    lines += ["## Load it", "", "```python", *_five_lines(manifest), "```", ""]
    lines += [
        "Pictures are turned upright (EXIF), converted to RGB, cropped to the largest centred square and resized with "
        "antialiasing (Pillow, bilinear), as in training. `lfdeploy predict` does just that, and lays transparent ones on white.",
        "",
        *card_section(manifest),
        "## Parity",
        "",
        f"Against the run's fp32 PyTorch module; subject: {parity['subject']}.",
        "",
        "| stage | check | value | bound | |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for check in parity["checks"]:
        cells = [check["stage"], check["name"], _cell(check["value"]), _cell(check["bound"]), "ok" if check["passed"] else "FAILED"]
        lines.append(f"| {' | '.join(cells)} |")
    for one in parity.get("not_examined", ()):
        lines.append(f"| {one['stage']} | not examined: {one['reason']} | | | |")
    return "\n".join(lines) + "\n"


def _cell(value: float | str) -> str:
    text = value if isinstance(value, str) else f"{value:.3g}"
    text = text.replace("|", "/")
    return text if len(text) <= 40 else text[:37] + "..."


def _five_lines(manifest: dict[str, Any]) -> list[str]:
    size, int8 = manifest["input"]["height"], manifest["precision"] == "int8"
    upright = 'ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")'
    picture = f"ImageOps.fit({upright}, ({size}, {size}), Image.Resampling.BILINEAR)"
    settings = '"INFERENCE_PRECISION_HINT": "f32"' + (', "LP_TRANSFORMS_MODE": "NO"' if int8 else "")
    exact = 'options.add_session_config_entry("session.x64quantprecision", "1")  # CPUs without VNNI add int8 up in 16 bits'
    if manifest["format"] == "onnx":
        return [
            "import json, numpy as np, onnxruntime",
            "from PIL import Image, ImageOps",
            *(["options = onnxruntime.SessionOptions()", exact] if int8 else []),
            f'session = onnxruntime.InferenceSession("model.onnx"{", options" * int8}, providers=["CPUExecutionProvider"])',
            'labels = json.loads(session.get_modelmeta().custom_metadata_map["lfdeploy"])["labels"]',
            f"pixels = np.asarray({picture})[None]",
            'print(labels[session.run(["probabilities"], {"images": pixels})[0].argmax()])',
        ]
    if manifest["format"] == "openvino":
        return [
            "import json, numpy as np, openvino",
            "from PIL import Image, ImageOps",
            'model = openvino.Core().read_model("model.xml")',
            'labels = json.loads(model.get_rt_info(["framework", "lfdeploy"]).value)["labels"]',
            f"pixels = np.asarray({picture})[None]",
            f"settings = {{{settings}}}" + ("  # the second: CPUs without VNNI add int8 up in 16 bits" if int8 else ""),
            'print(labels[openvino.compile_model(model, "CPU", settings)(pixels)["probabilities"].argmax()])',
        ]
    if manifest["format"] == "torch":
        return [
            "import json, numpy as np, torch",
            "from PIL import Image, ImageOps",
            'told = {"lfdeploy": ""}',
            'model = torch.export.load("model.pt2", extra_files=told).module()',
            f"pixels = torch.from_numpy(np.array({picture}))[None]",
            'print(json.loads(told["lfdeploy"])["labels"][model(pixels)[1].argmax()])',
        ]
    return [
        "import lfdeploy",
        'model = lfdeploy.open_artifact(".")',
        'print(model.predict(["picture.png"])[0].label)',
    ]
