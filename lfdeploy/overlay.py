"""Heat maps as pictures: what the network saw, and where the evidence for its answer lies, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lfdeploy.confidence import percent
from lfdeploy.config import flags_of
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.images import Pixels, prepare
from lfdeploy.predict import Prediction, Predictor
from lfdeploy.run import typed

HEATMAP, MARK = "heatmap", "lfdeploy heat map"
SIDE = 320  # of each half, at least
STRIP, GAP = 34, 8
# dark blue to yellow by way of red, lightness rising evenly
RAMP = np.array(
    [(8, 8, 40), (72, 18, 110), (150, 40, 110), (215, 75, 75), (247, 145, 50), (250, 235, 120)], np.float64
)


@dataclass
class Overlays:
    """Writes one PNG per picture into a directory; ``names`` are theirs, by the picture's path."""

    place: Path
    predictor: Predictor
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def into(cls, place: str, predictor: Predictor, files: Sequence[Path]) -> Overlays:
        """Raises `LfdeployError` for an artifact without a heat map, `UsageError` for a directory in which
        some of the pictures lie: they would be written over.
        """
        here = Path(place).resolve()
        if any(here in (file.resolve().parent, file.parent.resolve()) for file in files):
            raise UsageError(f"--explain {place}: pictures to answer lie there; name another directory.")
        artifact = predictor.artifact
        if HEATMAP not in [output["name"] for output in artifact.manifest.get("outputs", ())]:
            target = str(artifact.manifest["target"])
            which = "--fused" if target == "all" else flags_of(target)
            home = artifact.path.resolve().parent.parent
            beside = (home / "spec.json").is_file()
            run = typed(home) if beside else shlex.quote(str(artifact.manifest["run"]["name"]))
            raise LfdeployError(
                f"{artifact.name} has no heat map. Export one that has: lfdeploy export {run} {which} "
                "--explain"
            )
        Path(place).mkdir(parents=True, exist_ok=True)
        return cls(Path(place), predictor)

    def write(self, files: Sequence[str | Path], answers: Sequence[Prediction]) -> None:
        """A PNG for every picture that has an answer."""
        good = [(Path(file), answer) for file, answer in zip(files, answers, strict=True) if not answer.error]
        most, size = int(self.predictor.artifact.manifest["batch"]["max"]), self.predictor.size
        for start in range(0, len(good), most):
            part = good[start : start + most]
            pixels = np.stack([prepare(file, size) for file, _ in part])
            for (file, answer), seen, heat in zip(
                part, pixels, self.predictor.session.named(pixels)[HEATMAP], strict=True
            ):
                name = self.names.setdefault(str(file), self._free(file.stem))
                caption = f"{answer.label}  {percent(answer.top[0][1])}"
                caption += "  (not sure)" if answer.abstain else ""
                picture(seen, heat, caption).save(self.place / name, optimize=True, pnginfo=_mark())

    def _free(self, stem: str) -> str:
        """A name that no picture of this call has, nor any file but a heat map."""
        number = 1
        while True:
            name = f"{stem}{f'-{number}' * (number > 1)}.png"
            if name not in self.names.values() and _is_ours(self.place / name):
                return name
            number += 1


def _mark() -> PngInfo:
    info = PngInfo()
    info.add_text("Software", MARK)
    return info


def _is_ours(place: Path) -> bool:
    """Whether nothing is there, or a heat map that lfdeploy drew."""
    if not place.exists() and not place.is_symlink():
        return True
    try:
        with Image.open(place) as image:
            return not place.is_symlink() and image.info.get("Software") == MARK
    except (OSError, ValueError):
        return False


def picture(seen: Pixels, heat: NDArray[np.float32], caption: str) -> Image.Image:
    """uint8 (H, W, 3) and evidence (h, w) to the picture, the picture under its map, and a line of text.

    Colour begins where evidence is above zero, and ends at the map's largest value; places that speak against
    the class stay dark.
    """
    factor = max(1, -(-SIDE // seen.shape[0]))
    side = seen.shape[0] * factor
    plain = Image.fromarray(seen).resize((side, side), Image.Resampling.NEAREST)
    strength = np.clip(heat, 0, None) / max(float(heat.max()), 1e-12)
    fine = np.asarray(
        Image.fromarray(strength.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    ).clip(0, 1)
    grey = np.asarray(plain.convert("L"), np.float64)[..., None]
    colours = ramp(fine)
    mixed = (0.45 * grey + 0.55 * colours).clip(0, 255).astype(np.uint8)
    sheet = Image.new("RGB", (2 * side + GAP, side + STRIP), (250, 250, 250))
    sheet.paste(plain, (0, 0))
    sheet.paste(Image.fromarray(mixed), (side + GAP, 0))
    font = ImageFont.load_default(18)
    while font.getlength(caption) > sheet.width - 12 and len(caption) > 8:
        caption = caption[: len(caption) // 2 - 2] + "..." + caption[len(caption) // 2 + 3 :]
    ImageDraw.Draw(sheet).text((6, side + 6), caption, fill=(25, 30, 40), font=font)
    return sheet


def ramp(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """0..1 (H, W) to colours (H, W, 3)."""
    at = values.astype(np.float64) * (len(RAMP) - 1)
    return np.stack([np.interp(at, range(len(RAMP)), RAMP[:, channel]) for channel in range(3)], axis=-1)
