"""The card's lines of Python: a model and a picture without lfdeploy."""

from __future__ import annotations

from typing import Any


def load_lines(manifest: dict[str, Any]) -> list[str]:
    """Python that opens the file with its own runtime and names the class of a picture."""
    size, int8 = manifest["input"]["height"], manifest["precision"] == "int8"
    picture = _picture_lines(size)
    settings = '"INFERENCE_PRECISION_HINT": "f32"' + (', "LP_TRANSFORMS_MODE": "NO"' if int8 else "")
    entry = 'options.add_session_config_entry("session.x64quantprecision", "1")'
    exact = f"{entry}  # CPUs without VNNI add int8 up in 16 bits"
    if manifest["format"] == "onnx":
        return [
            "import json, numpy as np, onnxruntime",
            "from PIL import Image, ImageOps",
            *(["options = onnxruntime.SessionOptions()", exact] if int8 else []),
            f'session = onnxruntime.InferenceSession("model.onnx"{", options" * int8}, '
            'providers=["CPUExecutionProvider"])',
            'labels = json.loads(session.get_modelmeta().custom_metadata_map["lfdeploy"])["labels"]',
            *picture,
            "pixels = np.asarray(image)[None]",
            'print(labels[session.run(["probabilities"], {"images": pixels})[0].argmax()])',
        ]
    if manifest["format"] == "openvino":
        return [
            "import json, numpy as np, openvino",
            "from PIL import Image, ImageOps",
            'model = openvino.Core().read_model("model.xml")',
            'labels = json.loads(model.get_rt_info(["framework", "lfdeploy"]).value)["labels"]',
            *picture,
            "pixels = np.asarray(image)[None]",
            f"settings = {{{settings}}}"
            + ("  # the second: CPUs without VNNI add int8 up in 16 bits" if int8 else ""),
            'print(labels[openvino.compile_model(model, "CPU", settings)(pixels)["probabilities"].argmax()])',
        ]
    if manifest["format"] == "torch":
        return [
            "import json, numpy as np, torch",
            "from PIL import Image, ImageOps",
            'told = {"lfdeploy": ""}',
            'model = torch.export.load("model.pt2", extra_files=told).module()',
            *picture,
            "pixels = torch.from_numpy(np.array(image))[None]",
            'print(json.loads(told["lfdeploy"])["labels"][model(pixels)[1].argmax()])',
        ]
    return [
        "import lfdeploy",
        'model = lfdeploy.open_artifact(".")',
        'print(model.predict(["picture.png"])[0].label)',
    ]


def _picture_lines(size: int) -> list[str]:
    """The pixels that `lfdeploy.images.prepare` gives, for pictures of 8 bits without transparency."""
    return [
        'image = Image.open("picture.png")',
        f"image.draft(None, ({2 * size}, {2 * size}))  # a large JPEG is decoded at a reduced scale",
        'image = ImageOps.exif_transpose(image).convert("RGB")',
        "side = min(image.size)",
        "left, top = (image.width - side) // 2, (image.height - side) // 2",
        f"image = image.crop((left, top, left + side, top + side)).resize(({size}, {size}), "
        "Image.Resampling.BILINEAR)",
    ]
