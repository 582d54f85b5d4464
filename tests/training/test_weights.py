"""Starting from trained weights: what is taken answers as its source, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lfdeploy.artifact import NEEDED, SCHEMA
from lfdeploy.config import TrainConfig
from lfdeploy.errors import Interrupted, LfdeployError, UsageError
from lfdeploy.models import create
from lfdeploy.run import Run, sha256, write_json
from training import remarks, train
from training.engine import Engine
from training.teachers import best_network
from training.weights import IMAGENET, TENSORFLOW, Start, begin_from, fitting, head_of, starts_of

SMALL = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
OTHERS = ["densenet121", "mnasnet0_5", "efficientnet_b0", "convnext_tiny", "regnet_x_400mf", "mobilenet_v2"]


def shaken(network: nn.Module) -> nn.Module:
    """With other numbers in every tensor, statistics included, so that no two can be exchanged unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return network.eval()


def answers(network: nn.Module, side: int = 64) -> Tensor:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: Tensor = network(images)
    return found


@pytest.mark.parametrize("arch", [*SMALL, *(pytest.param(a, marks=pytest.mark.slow) for a in OTHERS)])
def test_torchvisions_tensors_are_found_by_their_order(arch: str, tmp_path: Path) -> None:
    from torchvision import models

    source = shaken(models.get_model(arch, weights=None, num_classes=7))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    save_file({n: t.contiguous() for n, t in source.state_dict().items()}, tmp_path / "w.safetensors")
    start = starts_of(str(tmp_path / "w.pth"), arch, tmp_path)[arch]
    sorted_by_name = starts_of(str(tmp_path / "w.safetensors"), arch, tmp_path)[arch]
    found = [fitting(each, arch) for each in (start, sorted_by_name)]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    network = create(arch, 7).eval()
    begin_from(network, Start("", start.tensors, start.pixels, tuple("abcdefg")), tuple("abcdefg"))
    assert torch.equal(answers(network), answers(source))
    assert start.pixels == IMAGENET


TIMM = ["resnet10t"]
TIMM_TOO = ["mobilenetv3_small_050", "convnext_atto", "regnetx_002", "efficientnet_lite0", "densenet121"]


@pytest.mark.parametrize("name", [*TIMM, *(pytest.param(n, marks=pytest.mark.wide) for n in TIMM_TOO)])
def test_timms_tensors_are_found_by_name(name: str, tmp_path: Path) -> None:
    """The last map is that of timm's own features with the weights of the same file."""
    timm = pytest.importorskip("timm")
    source = shaken(timm.create_model(name, pretrained=False))
    file = tmp_path / "w.safetensors"
    save_file({n: t.contiguous() for n, t in source.state_dict().items()}, file)
    arch = f"timm:{name}"
    start = starts_of(str(file), arch, tmp_path)[arch]
    network = create(arch, 7).eval()
    begin_from(network, start, tuple("abcdefg"))
    overlay = {"file": str(file)}
    own = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network.last_map(x), own(x)[-1])
    told = timm.get_pretrained_cfg(name)
    assert start.pixels == (list(told.mean), list(told.std))
    assert set(fitting(start, arch)) == set(network.state_dict()) - set(head_of(arch)) - {
        key for key in network.state_dict() if key.endswith("num_batches_tracked")
    }


def test_weights_of_another_network_of_timm_are_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pth")
    with pytest.raises(LfdeployError, match=r"is not for timm:mobilenetv3_small_050: it has no 'conv_stem"):
        starts_of(str(tmp_path / "w.pth"), "timm:mobilenetv3_small_050", tmp_path)


@pytest.mark.parametrize("side", [64, 97])
def test_published_weights_of_lite0_answer_as_timms_network_does(side: int, tmp_path: Path) -> None:
    """timm has the same network in code of its own, with TensorFlow's padding and its norm's epsilon."""
    timm = pytest.importorskip("timm")
    start = starts_of("default", "efficientnet_lite0", tmp_path)["efficientnet_lite0"]
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    other.load_state_dict(dict(zip(other.state_dict(), start.tensors.values(), strict=True)))
    classes = tuple(map(str, range(1000)))
    network = create("efficientnet_lite0", 1000).eval()
    begin_from(network, Start("", start.tensors, start.pixels, classes), classes)
    assert torch.allclose(answers(network, side), answers(other, side), atol=1e-5)
    assert start.pixels == TENSORFLOW


@pytest.mark.parametrize("classes", [3, 7])
def test_the_head_is_new_even_for_as_many_classes(classes: int, tmp_path: Path) -> None:
    source = shaken(create("resnet8", 7)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in source.items()}, tmp_path / "w.safetensors")
    start = starts_of(str(tmp_path / "w.safetensors"), "resnet8", tmp_path)["resnet8"]
    torch.manual_seed(0)
    network = create("resnet8", classes)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    begin_from(network, start, tuple(map(str, range(classes))))
    assert head_of("resnet8") == ["head.2.weight", "head.2.bias"]
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, fresh[name] if name in head_of("resnet8") else source[name]), name


def refused(kind: str, place: Path) -> tuple[str, str, type[Exception], str]:
    """What is given for --weights and --arch, and what is said."""
    file = place / "w.pth"
    if kind == "deeper":
        torch.save(create("resnet14", 3).state_dict(), file)
    elif kind == "wider":
        name = "stages.0.0.conv1.weight"
        torch.save(create("resnet8", 3).state_dict() | {name: torch.zeros(32, 16, 3, 3)}, file)
    elif kind == "code":
        torch.save({"weights": print}, file)
    elif kind == "numbers":
        torch.save({"a": 1}, file)
    elif kind == "text":
        file.write_text("weights")
    elif kind == "page":
        file.write_text("\n<html><body>Log in</body></html>")
    elif kind == "module":
        torch.save(create("resnet8", 3), file)
    elif kind == "diverged":
        tensors = create("resnet8", 3).state_dict()
        tensors["stages.0.0.conv1.weight"][0, 0, 0, 0] = torch.nan
        torch.save({"model_state_dict": tensors}, file)
    elif kind == "other ending":
        file = place / "last.ckpt"
        torch.save({"epoch": 3, "ema": {"a": 1}}, file)
    said = {
        "deeper": (LfdeployError, "is not for resnet8: it holds"),
        "wider": (LfdeployError, "is not for resnet8: 'stages.0"),
        "code": (LfdeployError, "cannot be read"),
        "numbers": (LfdeployError, "is no state dict"),
        "text": (LfdeployError, "cannot be read"),
        "page": (LfdeployError, "it is a web page, not weights"),
        "module": (LfdeployError, "Save model.state_dict() alone"),
        "diverged": (LfdeployError, "'stages.0.0.conv1.weight' holds NaN or infinity"),
        "other ending": (LfdeployError, "is no state dict: names with tensors. It holds epoch, ema."),
        "missing": (LfdeployError, "No such file"),
        "no network": (UsageError, "add --arch NAME"),
        "nothing published": (LfdeployError, "no published weights of resnet8"),
        "nobody": (LfdeployError, "--weights 'nobody' is neither a run nor an artifact"),
    }
    given = {"nothing published": "default", "nobody": "nobody"}.get(kind, str(file))
    return given, "" if kind == "no network" else "resnet8", *said[kind]


KINDS = ["deeper", "wider", "code", "numbers", "text", "missing", "no network", "nothing published", "nobody"]
KINDS += ["page", "module", "diverged", "other ending"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_one_line(kind: str, tmp_path: Path) -> None:
    given, archs, error, said = refused(kind, tmp_path)
    with pytest.raises(error) as found:
        starts_of(given, archs, tmp_path)
    assert said in str(found.value)
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes told apart by colour, 60 pictures of 16 px."""
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    colours = 60 + 90 * np.eye(3, dtype=np.int64)[labels][:, None, None, :]
    pictures = (colours + draw.integers(-60, 60, (60, 16, 16, 3))).astype(np.uint8)
    place = tmp_path_factory.mktemp("data") / "colours.npz"
    np.savez(place, train_x=pictures, train_y=labels, classes=np.array(["red", "green", "blue"]))
    return place


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, with a mean that its pictures do not have."""
    runs = tmp_path_factory.mktemp("first")
    run = train(TrainConfig(epochs=2, weights=None, lr=0.1, **settings(data)), "first", runs)
    (run.path / "spec.json").write_text(json.dumps(run.spec | {"mean": [0.4, 0.5, 0.6]}))
    return run


def settings(data: Path) -> dict[str, Any]:
    return {"data": str(data), "arch": "resnet8", "batch_size": 16, "precision": "fp32"}


def stopped_in_step(number: int, patch: pytest.MonkeyPatch, end: Callable[[], Any]) -> dict[str, Tensor]:
    """``end`` is called in that step, from 1; the tensors with which the first one began."""
    began: dict[str, Tensor] = {}
    step, steps = Engine.step, iter(range(1, 1000))

    def counted(self: Engine, *given: Any) -> Any:
        now = next(steps)
        if now == 1:
            network = self.cohort.peers[1].network
            began.update({name: tensor.detach().clone() for name, tensor in network.named_parameters()})
        if now == number:
            end()
        return step(self, *given)

    patch.setattr(Engine, "step", counted)
    return began


def died() -> None:
    raise RuntimeError("died")


def stems(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith("stem.0.weight")]


def test_a_run_begins_where_another_ended(
    data: Path,
    first: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With its mean and deviation, and for the same classes its head; interrupted, it needs its source no
    more.
    """
    place = Path(shutil.copytree(first.path, tmp_path / "first"))
    config = TrainConfig(epochs=2, weights=str(place), **settings(data))
    with monkeypatch.context() as patch:
        began = stopped_in_step(3, patch, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, "second", tmp_path)
    best = best_network(first)
    network = first.classifier(best).network
    assert all(torch.equal(tensor, began[name]) for name, tensor in network.named_parameters())
    assert "head included" in capsys.readouterr().err
    shutil.rmtree(place)
    resumed = train(config, runs=tmp_path, resume=Run(tmp_path / "second"))
    assert resumed.spec["mean"] == [0.4, 0.5, 0.6]
    assert resumed.read("config.json")["recipe"] == "finetune"  # though the weights are gone


@pytest.mark.slow
def test_a_run_that_died_before_its_first_state_begins_there_again(
    data: Path, first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=1, weights=str(first.path), **settings(data))
    with monkeypatch.context() as patch:
        stopped_in_step(2, patch, died)
        with pytest.raises(RuntimeError, match="died"):
            train(config, "second", tmp_path)
    with monkeypatch.context() as patch:
        began = stopped_in_step(0, patch, died)
        train(config, runs=tmp_path, resume=Run(tmp_path / "second"))
    assert any(torch.equal(began["stem.0.weight"], stem) for stem in stems(first.tensors()))


@pytest.mark.parametrize(
    "method", ["lfmkd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("one", "pcl"))]
)
def test_frozen_networks_stay_as_they_were(method: str, data: Path, first: Run, tmp_path: Path) -> None:
    """For as long as is asked: all but heads, statistics of normalisation included; then all learns."""
    config = TrainConfig(epochs=2, weights=str(first.path), method=method, val_fraction=0, **settings(data))
    start = first.classifier(best_network(first)).network.state_dict()
    for freeze in (2, 1):
        run = train(replace(config, freeze=freeze), f"{method}{freeze}", tmp_path)
        tensors = run.classifier("peer0").network.state_dict()
        network = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
        same = {name for name, tensor in network.items() if torch.equal(tensor, start[name])}
        held = {name for name in network if not name.startswith("head")}
        assert same == (held if freeze == 2 else set()), same ^ held


@pytest.mark.slow
def test_a_frozen_start_goes_on_to_the_same_bits(
    data: Path, first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=3, weights=str(first.path), freeze=1, **settings(data))
    whole = train(config, "whole", tmp_path).tensors()
    for number in (2, 6):  # in the frozen epoch, and after it
        with monkeypatch.context() as patch:
            stopped_in_step(number, patch, lambda: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(config, f"cut{number}", tmp_path)
        resumed = train(config, runs=tmp_path, resume=Run(tmp_path / f"cut{number}")).tensors()
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["lfmkd", *(pytest.param(name, marks=pytest.mark.wide) for name in ("kdcl", "independent"))]
)
def test_a_warm_start_on_photos_goes_on_to_the_same_bits(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted heads, kept statistics, frozen parts and AdamW included; what is frozen is as it was."""
    draw, labels = np.random.default_rng(0), np.arange(40) % 2
    pictures = draw.integers(0, 256, (40, 96, 96, 3)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", train_x=pictures, train_y=labels, classes=np.array(["a", "b"]))
    source = shaken(create("resnet8", 7)).state_dict()
    torch.save(source, tmp_path / "w.pth")
    config = TrainConfig(
        data=str(tmp_path / "d.npz"), arch="resnet8", method=method, weights=str(tmp_path / "w.pth"),
        epochs=2, batch_size=8, precision="fp32", device="cpu", image_size=96,
    )  # fmt: skip
    whole = train(config, "whole", tmp_path / "runs")
    assert whole.read("config.json")["freeze_parts"] == 2
    with monkeypatch.context() as patch:
        stopped_in_step(5, patch, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(config, "cut", tmp_path / "runs")
    (tmp_path / "w.pth").unlink()
    resumed = train(config, runs=tmp_path / "runs", resume=Run(tmp_path / "runs" / "cut"))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    network = whole.classifier("peer0").network.state_dict()
    held = [name for name in source if name.startswith(("stem.", "stages.0."))]
    assert all(torch.equal(network[name], source[name]) for name in held if "num_batches" not in name)
    assert not torch.equal(network["stages.2.0.conv1.weight"], source["stages.2.0.conv1.weight"])


@pytest.mark.parametrize(
    ("freeze", "weights", "said"), [(1, None, "add --weights"), (-1, "x", "a number of epochs")]
)
def test_what_cannot_be_frozen(freeze: int, weights: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(freeze=freeze, weights=weights)


def artifact_of(run: Run) -> Path:
    """What a name needs to find the run that an artifact came from: no file is read where the run is here."""
    values = {key: kind() for key, kind in NEEDED.items()}
    values |= {"schema": SCHEMA, "target": "peer0", "batch": {"min": 1, "opt": 1, "max": 1}}
    values["run"] = {"name": run.name, "weights_sha256": sha256(run.weights)}
    place = run.artifacts / "peer0-onnx-fp32"
    place.mkdir(parents=True)
    write_json(place / "manifest.json", values)
    return place


def test_a_teacher_that_knows_the_test_pictures_is_named(
    coloured_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their bytes, whatever they are called: 7 of 20 here; one that does not know them is not named."""
    with np.load(coloured_npz) as arrays:
        given = dict(arrays)
    test = np.concatenate([given["train_x"][:7], given["test_x"][:13]])
    truth = np.concatenate([given["train_y"][:7], given["test_y"][:13]])
    other = {"train_x": given["train_x"][7:], "train_y": given["train_y"][7:]}
    np.savez(tmp_path / "other.npz", **given | other | {"test_x": test, "test_y": truth})
    common: dict[str, Any] = {"arch": "resnet8", "epochs": 1, "val_fraction": 0.0}
    alone = common | {"method": "independent", "peers": 1}
    train(TrainConfig(data=str(coloured_npz), **alone), "knows", tmp_path)
    train(TrainConfig(data=str(tmp_path / "other.npz"), **alone), "does not", tmp_path)
    assert remarks.run_behind(str(tmp_path / "knows" / "model.safetensors"), tmp_path) is not None
    place = artifact_of(Run(tmp_path / "knows"))
    capsys.readouterr()
    names = ("knows", str(place), place.name)
    known = [("knows", {how: name}) for name in names for how in ("teacher", "weights")]
    for teacher, how in [*known, ("does not", {})]:
        settings = common | {"method": "kd" if "teacher" in how else "independent"} | how
        settings |= {"weights": "does not"} if teacher == "does not" else {}
        train(TrainConfig(data=str(tmp_path / "other.npz"), **settings), None, tmp_path)
        said = capsys.readouterr().err
        assert ("run knows was trained on 7 of the 20 test pictures" in said) == (teacher == "knows")
        assert said.count("Artifact: ") == (place.name in how.values())


@pytest.mark.parametrize(
    ("blob", "said"),
    [(b"hello", "it begins with b'hello', and torch.save wrote no such file"), (b"", "it is empty")],
)
def test_a_file_that_is_no_file_of_weights(blob: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(blob)
    with pytest.raises(LfdeployError, match=said):
        starts_of(str(tmp_path / "w.pth"), "resnet8", tmp_path)


def test_which_of_several_states_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create("resnet8", 5).state_dict()
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    found = starts_of(str(tmp_path / "w.pth"), "resnet8", tmp_path)["resnet8"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.tensors.items())
    assert "w.pth holds model, model_ema; model is taken" in capsys.readouterr().err
    torch.save({"model": state, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    starts_of(str(tmp_path / "w.pth"), "resnet8", tmp_path)
    assert "is taken" not in capsys.readouterr().err
