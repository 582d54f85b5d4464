"""What keeps a network from learning its pictures by heart: mixtures, holes, averages, clipped gradients.

Each against what it is by definition, and with every method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import built, enough
from torchvision.transforms import v2

from lfdeploy.config import TrainConfig
from lfdeploy.data import Split
from lfdeploy.errors import UsageError
from lfdeploy.run import Run
from training import checkpoint, train
from training.augment import Augment, changed, erased, random_holes
from training.average import Average
from training.batches import Batches
from training.engine import Engine
from training.losses import Edge, LossGraph, evaluate_graph
from training.methods import METHODS
from training.mixup import Mix, mixed, mixes
from training.terms import distillation

SHORT: dict[str, Any] = {
    "arch": "resnet8",
    "epochs": 2,
    "batch_size": 30,
    "precision": "fp32",
    "val_fraction": 0,
}


def pixels(count: int = 6, side: int = 16) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), generator=random, dtype=torch.uint8)


def test_mixup_is_the_weighted_mean() -> None:
    view = pixels()
    both, share = mixed(view, Mix(0.7))
    expected = 0.7 * view.double() + 0.3 * view.flip(0).double()
    assert share == 0.7 and (both.double() - expected).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.9), (1.0, 1.0)])
def test_cutmix_pastes_as_much_as_it_says(centre: tuple[float, float]) -> None:
    """Every pixel is of one of the two, and the share is counted from them."""
    view = torch.stack([torch.full((16, 16, 3), value, dtype=torch.uint8) for value in (10, 20)])
    both, share = mixed(view, Mix(0.75, centre))
    assert set(both.unique().tolist()) <= {10, 20}
    assert float((both[0] == 10).double().mean()) == pytest.approx(share) and share >= 0.75 - 1e-9


def test_mixes_are_drawn_as_asked() -> None:
    assert mixes(Augment(0, False), 5, 1) == [None] * 5
    only = mixes(Augment(0, False, mixup=0.2), 400, 1)
    assert all(mix is not None and mix.centre is None and 0.5 <= mix.share <= 1 for mix in only)
    both = mixes(Augment(0, False, mixup=0.2, cutmix=1.0), 400, 1)
    assert 150 < sum(mix is not None and mix.centre is not None for mix in both) < 250
    assert (
        both
        == mixes(Augment(0, False, mixup=0.2, cutmix=1.0), 400, 1)
        != mixes(Augment(0, False, mixup=0.2, cutmix=1.0), 400, 2)
    )


def test_an_epoch_goes_on_with_the_same_mixtures() -> None:
    """From any step; all views by one share; labels and partners are those of the pictures."""
    split = Split(pixels(24).numpy(), np.arange(24) % 5, "digest")
    batches = Batches(split, 6, Augment(2, True, 0, erase=0.5, mixup=0.4, cutmix=1.0), 3, "cpu", views=2)
    whole, rest = list(batches.epoch(1)), list(batches.epoch(1, 2))
    for one, other in zip(whole[2:], rest, strict=True):
        assert one.share == other.share and torch.equal(one.views[1], other.views[1])
    given = whole[0].given(torch.zeros(3), torch.ones(3))
    assert torch.equal(given["other_labels"], whole[0].labels.flip(0))
    assert float(given["share"]) == pytest.approx(whole[0].share)


def test_the_loss_of_mixed_pictures_is_that_of_both_labels() -> None:
    """By hand, with smoothing; and a teacher is better by the same measure."""
    torch.manual_seed(0)
    logits, teacher = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    first, second, share = torch.arange(8) % 5, (torch.arange(8) * 3 + 1) % 5, 0.6
    truth = share * F.one_hot(first, 5).double() + (1 - share) * F.one_hot(second, 5).double()
    nodes = {"p": logits, "t": teacher, "labels": first, "other_labels": second}
    nodes["share"] = torch.tensor(share, dtype=torch.float64)
    graph = LossGraph({"p": 2.0}, (Edge("kd", "t", "p", 1.0, if_better=True),), smoothing=0.1)
    found = evaluate_graph(graph, nodes, graph.ramps(0, 1))
    soft = 0.9 * truth + 0.1 / 5
    assert abs(found["ce_p"] + 2 * (soft * logits.log_softmax(1)).sum(1).mean()) < 1e-12
    theirs, own = (-(truth * x.log_softmax(1)).sum(1) for x in (teacher, logits))
    better = theirs < own
    assert 0 < int(better.sum()) < 8
    expected = distillation(teacher[better], logits[better], 3.0) * int(better.sum()) / 8
    assert abs(found["kd"] - expected) < 1e-10


def test_holes() -> None:
    """As many pictures as asked for lose a rectangle of 2 to 33 %; the others stay as they are."""
    holes = random_holes(2000, 32, 0.25, torch.Generator().manual_seed(0))
    area = (holes[:, 2] - holes[:, 0]) * (holes[:, 3] - holes[:, 1]) / 32**2
    some = area > 0
    assert abs(float(some.double().mean()) - 0.25) < 0.04
    assert float(area[some].min()) > 0.01 and float(area[some].max()) < 0.331
    assert holes[:, :4].min() >= 0 and holes[:, :4].max() <= 32.001
    view = pixels(2000, 32)
    after = erased(view, holes)
    changed = (after != view).any(3)
    assert not changed[~some].any()
    for i in some.nonzero().flatten()[:50].tolist():
        assert abs(float(changed[i].double().mean()) - float(area[i])) < 0.08
        inside = after[i][changed[i]]
        assert len(inside) == 0 or (inside == inside[0]).all(1).float().mean() > 0.98


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_follows_from_the_seed_of_each_picture(policy: str) -> None:
    """Whatever the others are, and whatever torch drew before; torchvision's own change, and nothing is drawn
    from torch's generator.
    """
    view, seeds = pixels(8, 32), torch.arange(8) + 5
    before = torch.get_rng_state()
    whole = changed(view, seeds, policy)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(changed(view[3:5], seeds[3:5], policy), whole[3:5])
    assert (whole != view).any(3).any(2).any(1).sum() >= 4
    torch.manual_seed(9)
    transform = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    assert torch.equal(transform(view[4].permute(2, 0, 1)).permute(1, 2, 0), whole[4])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_from_mixtures(method: str) -> None:
    """A step: finite parts, gradients for every peer; crd is refused before."""
    row = METHODS[method]
    if row.looks_across == "epochs":
        return
    options = row.options()
    cohort = built(method, ["resnet8"] * enough(method), 5, 16, options).train()
    engine = Engine(cohort, row.graph(cohort, options), "cpu", torch.float32, 0)
    split = Split(pixels(12).numpy(), np.arange(12) % 5, "digest")
    batches = Batches(split, 12, Augment(2, True, erase=0.5, mixup=0.4, cutmix=1.0), 1, "cpu", cohort.views)
    given = next(batches.epoch(0)).given(torch.full((3,), 0.5), torch.full((3,), 0.25))
    parts = engine.step(given, engine.graph.ramps(3, 4))
    assert all(bool(torch.isfinite(part)) for part in parts.values())
    for peer in cohort.peers:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in peer.parameters())


def test_what_remembers_pictures_refuses_mixtures(coloured_npz: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    train(TrainConfig(data=str(coloured_npz), method="independent", peers=1, **SHORT), "teacher", runs)
    config = TrainConfig(data=str(coloured_npz), method="crd", teacher="teacher", mixup=0.2, **SHORT)
    with pytest.raises(UsageError, match="crd"):
        train(config, "crd", runs)


def test_the_average_is_the_sum_by_hand() -> None:
    """After some steps, statistics included; while it is applied it is what the cohort has, and only then."""
    torch.manual_seed(0)
    cohort = built("ffl", ["resnet8"] * 2, 5, 16, METHODS["ffl"].options())
    average = Average(cohort, 0.9)
    name = "peer0.network.stem.0.weight"
    name = name if name in cohort.kept() else next(n for n in cohort.kept() if n.endswith("weight"))
    expected = cohort.kept()[name].double().clone()
    for step in range(20):
        for parameter in cohort.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        average.update(cohort, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * cohort.kept()[name].double()
    live = cohort.kept()[name].clone()
    with average.applied(cohort):
        assert (cohort.kept()[name].double() - expected).abs().max() < 1e-6
    assert torch.equal(cohort.kept()[name], live)


def test_the_average_is_what_is_kept_and_resumed(
    coloured_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's weights are the averaged ones, its checkpoint has both; one that goes on ends the same."""
    config = TrainConfig(data=str(coloured_npz), method="ffl", ema=0.8, clip_norm=1.0, mixup=0.4, **SHORT)
    run = train(config, "whole", tmp_path)
    state = torch.load(run.path / "checkpoint" / "last.pt", weights_only=True)
    kept = run.tensors()
    for name, tensor in state["average"].items():
        assert torch.equal(kept[name], tensor), name
    assert any(not torch.equal(kept[name], tensor) for name, tensor in state["model"].items())
    real = checkpoint.save

    def save_and_stop(*given: Any) -> None:
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, "cut", tmp_path)
    monkeypatch.setattr(checkpoint, "save", real)
    cut = train(config, resume=Run(tmp_path / "cut"))
    assert cut.weights.read_bytes() == run.weights.read_bytes()


def test_gradients_are_clipped(coloured_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is longer than asked for; without the setting, some are."""
    norms: list[float] = []
    real = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *given: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return real(self, *given)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    common = {"data": str(coloured_npz), "method": "independent"} | SHORT
    train(TrainConfig(**common, clip_norm=0.25), "clipped", tmp_path)
    assert max(norms) <= 0.25 + 1e-4
    norms.clear()
    train(TrainConfig(**common), "free", tmp_path)
    assert max(norms) > 0.25
