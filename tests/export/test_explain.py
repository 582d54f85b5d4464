"""`--explain`: the heat map is exact, the gate sees every fault in it, and it is drawn."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from made import made_once
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from export import export
from export.build.graph import in_precision, to_onnx
from export.parity.contract import lone_facts
from lfdeploy.artifact import read, sealed
from lfdeploy.config import ExportConfig
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.models import ARCHITECTURES, create
from lfdeploy.models.deploy import Classifier
from lfdeploy.models.explain import explained, side_of
from lfdeploy.run import Run, sha256, typed, write_json

pytestmark = pytest.mark.usefixtures("one_reference")

Note = Callable[[str, object], None]
NO_MAP = ("mobilenet_v3", "convnext")
FIRST = {row.family: name for name, row in reversed(ARCHITECTURES.items())}
ONE_OF_EACH = [*FIRST.values(), "densenet40_12_bc", "vgg8_bn_cifar"]


@pytest.fixture(scope="module")
def places(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Peer 0 with a heat map, by precision."""
    out = tmp_path_factory.mktemp("explained")
    config = ExportConfig(peer=0, explain=True, precision="fp32,fp16,int8")
    made_once("explained", lambda place: export(replace(config, out=str(place)), tiny_run), out)
    return {str(read(path).manifest["precision"]): path for path in out.iterdir()}


def answers(path: Path, pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    session = ort.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels}), strict=True))


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=() if a in ONE_OF_EACH else pytest.mark.wide) for a in ARCHITECTURES]
)
def test_every_architecture_has_an_exact_map_or_is_refused(arch: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier(create(arch, 5).eval(), [0.5] * 3, [0.25] * 3).eval()
    if arch.startswith(NO_MAP):
        with pytest.raises(LfdeployError, match=f"peer0 of {arch} has no exact heat map.*without --explain"):
            explained(classifier, "peer0", {"archs": [arch]})
        return
    size = 32 if ARCHITECTURES[arch].largest == 64 else 64
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    made = explained(classifier, "peer0", {"archs": [arch]})
    with torch.inference_mode():
        logits, probabilities = classifier(pixels)
        same, also, heat = made(pixels)
    assert heat.shape == (2, side_of(made, size), side_of(made, size))
    assert torch.equal(same, logits)
    assert torch.equal(also, probabilities)
    assert (heat.mean((1, 2)) - logits.max(1).values).abs().max() <= 1e-5 * heat.abs().max()


def test_logits_are_those_without_it_to_the_bit(tiny_run: Run, places: dict[str, Path]) -> None:
    pixels = tiny_run.data().test.images[:32]
    plain, found = answers(tiny_run.artifacts / "peer0-onnx-fp32", pixels), answers(places["fp32"], pixels)
    assert list(found) == ["logits", "probabilities", "heatmap"]
    assert (plain["logits"] == found["logits"]).all()
    assert (plain["probabilities"] == found["probabilities"]).all()


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("fp16", 2e-3), ("int8", 3e-2)])
def test_its_mean_is_the_top_logit(
    precision: str, bound: float, tiny_run: Run, places: dict[str, Path]
) -> None:
    manifest = json.loads((places[precision] / "manifest.json").read_text())
    assert manifest["outputs"][2] == {"name": "heatmap", "dtype": "float32", "shape": ["batch", 4, 4]}
    assert manifest["parity"]["verdict"] == "pass"
    found = answers(places[precision], tiny_run.data().test.images[:64])
    heat, top = found["heatmap"], found["logits"].max(1)
    assert np.abs(heat.mean((1, 2)) - top).max() <= bound * np.abs(heat).max()
    assert "mean is the top logit" in (places[precision] / "README.md").read_text()


@pytest.mark.wide
def test_other_targets_and_formats(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    made = export(ExportConfig(fused=True, explain=True, out=str(tmp_path / "fused")), tiny_run)
    made += export(ExportConfig(ensemble=True, explain=True, out=str(tmp_path / "ensemble")), tiny_run)
    for format in ("openvino", "torch"):
        made += export(
            ExportConfig(fused=True, explain=True, format=format, out=str(tmp_path / format)), tiny_run
        )
    assert [artifact.verdict for artifact in made] == ["pass"] * 4
    assert lf("bisect", tmp_path / "fused", "--run", tiny_run.path).exit_code == 0
    engine = export(ExportConfig(peer=0, explain=True, format="trt", out=str(tmp_path / "trt")), tiny_run)[0]
    assert engine.verdict in ("pass", "unverified")
    assert "heat map: largest difference / scale" in [
        check["name"] for check in engine.manifest["parity"]["checks"]
    ]


def mended(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the file, and make the manifest fit it."""
    model = onnx.load(path / "model.onnx")
    change(model)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    seal(path)


def seal(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    told = {"sha256": sha256(path / "model.onnx"), "bytes": (path / "model.onnx").stat().st_size}
    write_json(path / "manifest.json", sealed(manifest | told))


def last(*nodes: tuple[str, list[np.ndarray[Any, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Further nodes between the map and its output."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        maker = next(node for node in graph.node if "heatmap" in node.output)
        maker.output[:] = ["true" if name == "heatmap" else name for name in maker.output]
        before = "true"
        for number, (kind, constants, attributes) in enumerate(nodes):
            names = [f"constant_{number}_{i}" for i in range(len(constants))]
            graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in zip(names, constants, strict=True)
            )
            after = "heatmap" if number == len(nodes) - 1 else f"between_{number}"
            graph.node.append(
                helper.make_node(kind, [before, *names], [after], f"fault_{number}", **attributes)
            )
            before = after

    return lambda path: mended(path, edit)


def again(change: Callable[[Any], None], run: list[Run]) -> Callable[[Path], None]:
    """The module's file made again after a change to what explains it."""

    def mutate(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        alone = in_precision(run[0].classifier("peer0"), "fp32", 16)
        made = explained(alone, "peer0", {"archs": ["resnet8"]})
        change(made)
        (path / "model.onnx").write_bytes(to_onnx(made, 16, (1, 8, 64), lone_facts(manifest)))
        seal(path)

    return mutate


class Other(nn.Module):
    """Explains with another linear layer than the one that answers."""

    def __init__(self, cut: Any, linear: nn.Linear) -> None:
        super().__init__()
        self.cut, self.linear = cut, linear

    def forward(self, x: torch.Tensor) -> Any:
        return self.cut(x)


def linear(change: Callable[[nn.Linear], None]) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        other = copy.deepcopy(made.network[0].linear)
        change(other)
        made.network[0] = Other(made.network[0], other)

    return edit


def roll(layer: nn.Linear) -> None:
    layer.weight.data, layer.bias.data = layer.weight.data.roll(1, 0), layer.bias.data.roll(1, 0)


def noisy(layer: nn.Linear) -> None:
    torch.manual_seed(0)
    layer.weight.data += 0.05 * layer.weight.abs().max() * torch.randn_like(layer.weight)


HOME: list[Run] = []
TURN: dict[str, Any] = {"perm": [0, 2, 1]}
FLAT = ("Expand", [np.array([1, 4, 4], np.int64)], {})
FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "heat map: transposed": ("values", last(("Transpose", [], TURN))),
    "heat map: mirrored": ("values", last(("Gather", [np.array([3, 2, 1, 0])], {"axis": 2}))),
    "heat map: moved by one place": ("values", last(("Gather", [np.array([1, 2, 3, 0])], {"axis": 1}))),
    "heat map: one picture's for all": (
        "values",
        last(("Mul", [np.float32(0)], {}), ("Add", [np.ones((4, 4), np.float32)], {})),
    ),
    "heat map: flat, with the right mean": (
        "values",
        last(("ReduceMean", [np.array([1, 2])], {"keepdims": 1}), FLAT),
    ),
    "heat map: a hundredth too large": ("values", last(("Mul", [np.float32(1.01)], {}))),
    "heat map: from 0 to 1": ("values", last(("Sigmoid", [], {}))),
    "heat map: negative places lost": ("values", last(("Relu", [], {}))),
    "heat map: NaN": ("values", last(("Mul", [np.float32(np.nan)], {}))),
    "heat map: rounded to fp16": (
        "values",
        last(("Cast", [], {"to": TensorProto.FLOAT16}), ("Cast", [], {"to": TensorProto.FLOAT})),
    ),
    "heat map: bias left out": ("values", again(linear(lambda layer: layer.bias.data.zero_()), HOME)),
    "heat map: of the class before": ("values", again(linear(roll), HOME)),
    "heat map: weights 5 % off": ("values", again(linear(noisy), HOME)),
}


def output(change: Callable[[onnx.ValueInfoProto], None]) -> Callable[[Path], None]:
    return lambda path: mended(
        path, lambda model: change(next(v for v in model.graph.output if v.name == "heatmap"))
    )


def renamed(path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["map" if name == "heatmap" else name for name in node.output]
        next(v for v in model.graph.output if v.name == "heatmap").name = "map"

    mended(path, edit)


def lost(path: Path) -> None:
    mended(
        path,
        lambda model: model.graph.output.remove(next(v for v in model.graph.output if v.name == "heatmap")),
    )


def untold(path: Path) -> None:
    """The manifest forgets the map; the file still says that it has one."""
    manifest = json.loads((path / "manifest.json").read_text())
    write_json(path / "manifest.json", sealed(manifest | {"outputs": manifest["outputs"][:2]}))


FAULTS |= {
    "heat map: another name": ("names", renamed),
    "heat map: not there": ("names", lost),
    "heat map: not told": ("file", untold),
}


SOME = [pytest.param(name, marks=pytest.mark.slow if i % 5 else ()) for i, name in enumerate(FAULTS)]


@pytest.mark.parametrize("name", SOME)
def test_fault_is_caught(
    name: str,
    tiny_run: Run,
    places: dict[str, Path],
    tmp_path: Path,
    lf: Callable[..., Result],
    record_property: Callable[[str, object], None],
) -> None:
    HOME[:] = [tiny_run]
    stage, mutate = FAULTS[name]
    path = Path(shutil.copytree(places["fp32"], tmp_path / "subject"))
    mutate(path)
    result = lf("verify", path, "--run", tiny_run.path)
    found = (
        result.stderr.partition("stage ")[2].partition(":")[0]
        if result.exit_code == 3
        else f"exit {result.exit_code}"
    )
    record_property("fault", (name, stage, found))
    assert found == stage, result.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_untouched_passes(
    precision: str, tiny_run: Run, places: dict[str, Path], lf: Callable[..., Result]
) -> None:
    assert lf("verify", places[precision], "--run", tiny_run.path).exit_code == 0


def test_pictures_are_drawn(
    tiny_run: Run, places: dict[str, Path], tmp_path: Path, lf: Callable[..., Result]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(tiny_run.data().test.images[0]).resize((40, 30)).save(tmp_path / folder / "same.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    result = lf("predict", places["fp32"], tmp_path / "a", tmp_path / "b", "--explain", tmp_path / "maps")
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["same-2.png", "same.png"]
    drawn = np.asarray(Image.open(tmp_path / "maps" / "same.png").convert("RGB"))
    assert drawn.shape[1] > 2 * 320
    assert drawn[:320, 328:].reshape(-1, 3).std(0).min() > 5  # a map, not one colour
    assert "2 heat maps in" in result.stderr


def test_refusals_are_one_line(tiny_run: Run, tmp_path: Path, lf: Callable[..., Result]) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(picture)
    result = lf("predict", tiny_run.artifacts / "peer1-onnx-fp32", picture, "--explain", tmp_path / "maps")
    assert result.exit_code == 1
    how = f"lfdeploy export {typed(tiny_run.path)} --peer 1 --explain"
    assert f"has no heat map. Export one that has: {how}" in result.stderr
    with pytest.raises(UsageError, match="--explain with --single-file"):
        ExportConfig(all=True, single_file=True, explain=True)
