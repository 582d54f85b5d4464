"""From a folder of whatever people have to verified files, with the real commands. Long: marked slow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from lfdeploy.artifact import read

pytestmark = pytest.mark.slow


def mixed_folder(root: Path) -> Path:
    """Three classes told apart by colour, in every kind and shape; one file is cut in the middle."""
    random = np.random.default_rng(0)
    for label, colour in {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}.items():
        place = root / label
        place.mkdir(parents=True)

        def noisy(width: int, height: int, colour: tuple[int, int, int] = colour) -> Image.Image:
            noise = random.integers(-35, 35, (height, width, 3))
            return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))

        for index in range(24):
            noisy(int(random.integers(20, 200)), int(random.integers(20, 200))).save(
                place / f"photo {index}.jpg", quality=90
            )
        for turn in (3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = turn
            noisy(90, 60).save(place / f"turned {turn}.jpg", exif=exif)
        alpha = noisy(64, 64).convert("RGBA")
        alpha.putalpha(Image.fromarray((np.indices((64, 64))[0] * 4).astype(np.uint8)))
        alpha.save(place / "alpha.png")
        noisy(50, 70).convert("L").save(place / "grey.png")
        noisy(50, 70).convert("CMYK").save(place / "cmyk.jpg", quality=95)
        noisy(40, 40).convert("P").save(place / "palette.gif")
        for width, height in ((1, 1), (1, 300), (5, 3), (700, 2)):
            noisy(width, height).save(place / f"{width}x{height}.png")
    noisy(6000, 4000).resize((6000, 4000)).save(root / "blue" / "large.jpg", quality=80)
    whole = (root / "red" / "photo 0.jpg").read_bytes()
    (root / "red" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_a_folder_of_mixed_pictures(tmp_path: Path, lf: Callable[..., Result]) -> None:
    root, runs = mixed_folder(tmp_path / "pictures"), tmp_path / "runs"
    trained = lf(
        "train",
        "--data",
        root,
        "--image-size",
        32,
        "--arch",
        "resnet8",
        "--epochs",
        6,
        "--runs",
        runs,
        "--name",
        "mixed",
    )
    assert trained.exit_code == 0, trained.stderr
    assert "cut.jpg" in trained.stderr
    assert "Left out 1 file in all" in trained.stderr
    summary = json.loads((runs / "mixed" / "summary.json").read_text())
    assert summary["data"]["bad"] == 1
    exported = lf("export", runs / "mixed", "--fused")
    assert exported.exit_code == 0, exported.stderr
    artifact = runs / "mixed" / "artifacts" / "fused-onnx-fp32"
    answers = {}
    for backend in ("auto", "pytorch"):
        result = lf("predict", artifact, root, "--json", "--top", 3, "--backend", backend)
        assert result.exit_code == 0
        answers[backend] = json.loads(result.stdout)["predictions"]
    assert len(answers["auto"]) == 3 * 35 + 2
    for a, b in zip(answers["auto"], answers["pytorch"], strict=True):
        left = {t["label"]: t["probability"] for t in a["top"]}
        right = {t["label"]: t["probability"] for t in b["top"]}
        assert left.keys() == right.keys()
        assert all(abs(left[k] - right[k]) <= 1e-5 for k in left)
    assert [a["picture"].rsplit("/")[-1] for a in answers["auto"] if a["error"]] == ["cut.jpg"]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("archs", "precisions"),
    [("resnet20,mobilenet_v3_small", "fp16"), ("resnet20,shufflenet_v2,mobilenet_v2", "fp32,fp16")],
)
def test_healthy_exports_of_peers_of_several_families_pass(
    archs: str, precisions: str, tmp_path: Path, lf: Callable[..., Result]
) -> None:
    """Different peers and their ensemble; barely trained: small logits, and probes' ten times larger."""
    random = np.random.default_rng(0)
    colours = random.integers(40, 216, (4, 3))
    arrays = {}
    for split, count in (("train", 128), ("test", 200)):
        labels = np.arange(count) % 4
        noise = random.integers(-60, 60, (count, 48, 48, 3))
        arrays[f"{split}_x"] = (colours[labels][:, None, None, :] + noise).clip(0, 255).astype(np.uint8)
        arrays[f"{split}_y"] = labels
    np.savez(tmp_path / "data.npz", classes=np.array(list("abcd")), **arrays)
    words = [
        "train",
        "--data",
        tmp_path / "data.npz",
        "--arch",
        archs,
        "--method",
        "independent",
        "--epochs",
        3,
        "--lr",
        0.002,
    ]
    trained = lf(*words, "--batch-size", 16, "--runs", tmp_path / "runs", "--name", "three")
    assert trained.exit_code == 0, trained.stderr
    run = tmp_path / "runs" / "three"
    exported = lf("export", run, "--all", "--precision", precisions)
    assert exported.exit_code == 0, exported.stderr
    artifacts = sorted((run / "artifacts").glob("*/manifest.json"))
    assert [read(p.parent).verdict for p in artifacts] == ["pass"] * (archs.count(",") + 2) * (
        precisions.count(",") + 1
    )
    for path in artifacts[:2]:
        assert lf("verify", path.parent).exit_code == 0
