"""Recipes: which one is taken, what it fills in, what the user says against it, and how long it may take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfdeploy.config import TrainConfig, parse_options, seconds_of
from lfdeploy.data import Data, Split
from lfdeploy.errors import LfdeployError, UsageError
from lfdeploy.run import config_json
from lfdeploy.stored_config import stored
from training import train
from training.budget import Costs, enough, fitting, told
from training.methods import METHODS
from training.recipes import RECIPES, chosen, resolved
from training.setup import prepare


def data_of(train: int = 100, side: int = 32, val: int = 10, test: int = 20) -> Data:
    def split(count: int) -> Split:
        return Split(np.zeros((count, 1, 1, 3), np.uint8), np.arange(count) % 2, "digest")

    return Data("toy", ("a", "b"), side, split(train), split(val), split(test), (), (), 7, "resnet8", True)


@pytest.mark.parametrize(
    ("given", "side", "name"),
    [
        ({}, 32, "cifar-fast"),
        ({}, 224, "scratch"),
        ({"weights": "default"}, 224, "finetune"),
        ({"weights": "default"}, 32, "finetune"),
        ({"weights": "default", "recipe": "cifar"}, 32, "cifar"),
    ],
)
def test_which_recipe(given: dict[str, Any], side: int, name: str) -> None:
    assert chosen(TrainConfig(**given), side) == name


def test_no_such_recipe() -> None:
    with pytest.raises(LfdeployError, match="cifar-fast"):
        chosen(TrainConfig(recipe="cifar-fats"), 32)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("weights", [None, "default"])
def test_a_recipe_leaves_nothing_open(name: str, side: int, weights: str | None) -> None:
    """And what it fills in is a config that can be given again: nothing of it contradicts."""
    if name == "finetune" and not weights:
        pytest.skip("refused")
    config = resolved(TrainConfig(recipe=name, weights=weights), data_of(side=side), 4)
    about = {"arch", "peers", "teacher", "weights", "data_root", "cache", "image_size", "time", "steps"}
    assert {f.name for f in fields(config) if getattr(config, f.name) is None} <= about
    assert replace(config) == config
    assert resolved(config, data_of(train=5000, side=side), 2) == config
    assert (config.freeze_parts or 0) == (3 if name == "finetune" and side == 224 and weights else 0)
    assert config.train_size == (192 if name == "finetune" and side == 224 else side)


def test_what_the_user_says_is_not_overridden() -> None:
    said = {
        "optimizer": "sgd", "lr": 0.3, "weight_decay": 0.0, "decay_norms": True, "schedule": "step",
        "warmup": 0.0, "epochs": 3, "batch_size": 4, "augment": "none", "train_size": 64,
        "label_smoothing": 0.0, "fresh_lr": 2.0, "freeze": "2", "freeze_parts": 0,
    }  # fmt: skip
    config = resolved(TrainConfig(weights="default", **said), data_of(side=224), 4)
    assert {key: getattr(config, key) for key in said} == said


@pytest.mark.parametrize(("count", "size"), [(10, 8), (100, 8), (1000, 32), (2048, 128), (50_000, 128)])
def test_the_batch_goes_by_the_pictures(count: int, size: int) -> None:
    assert resolved(TrainConfig(), data_of(train=count), 3).batch_size == size


@pytest.mark.parametrize(
    ("said", "seconds"), [("90s", 90), ("8m", 480), ("2h", 7200), ("1h30m", 5400), ("1m5s", 65)]
)
def test_times(said: str, seconds: float) -> None:
    assert seconds_of(said) == seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"time": "8"}, "write 90s"),
        ({"time": "0m"}, "write 90s"),
        ({"time": "m"}, "write 90s"),
        ({"time": "8m", "epochs": 3}, "drop one"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"train_size": 4}, "8 to 1024"),
        ({"weights": "x", "freeze": "most"}, "all, or a number"),
        ({"freeze_parts": 2}, "add --weights"),
        ({"weights": "x", "freeze_parts": -1}, "0 or greater"),
    ],
)
def test_what_a_training_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TrainConfig(**given)


def spent(costs: Costs, epochs: int, steps: int, data: Data) -> float:
    pictures = epochs * len(data.val) + 2 * len(data.test) + len(data.val) + 64
    return epochs * steps * costs.step + pictures * costs.picture


@pytest.mark.parametrize("seconds", [60.0, 200.0, 1000.0, 12_345.0])
@pytest.mark.parametrize(("step", "picture", "whole"), [(0.1, 0.01, 30), (3.0, 0.05, 30), (0.02, 0.001, 400)])
def test_epochs_fill_the_time(seconds: float, step: float, picture: float, whole: int) -> None:
    data, costs = data_of(), Costs(step, picture)
    epochs, steps = fitting(costs, f"{seconds:.0f}s", seconds - 10, whole, data)
    assert 1 <= steps <= whole
    used = spent(costs, epochs, steps, data)
    assert used <= seconds - 10
    assert used >= 0.94 * (seconds - 10) - 6 - epochs * step


def test_a_time_that_is_too_short_says_what_is_needed() -> None:
    """In the words of the flag; and what it proposes suffices for a whole epoch."""
    costs, data = Costs(3.0, 0.1), data_of()
    with pytest.raises(
        LfdeployError, match=r"--time 30s is too short: one epoch needs \dm\d+s, with"
    ) as caught:
        fitting(costs, "30s", 20, 30, data)
    proposed = re.search(r"Try --time (\d+m)\.", str(caught.value))
    assert proposed is not None
    epochs, steps = fitting(costs, proposed[1], seconds_of(proposed[1]) - 10, 30, data)
    assert epochs * steps >= 30


@pytest.mark.parametrize(
    ("seconds", "said", "proposed"),
    [(0.2, "1s", "10s"), (45, "45s", "50s"), (280, "4m40s", "6m"), (3700, "1h1m", "1h10m")],
)
def test_times_are_told_as_they_are_typed(seconds: float, said: str, proposed: str) -> None:
    assert (told(seconds), enough(seconds)) == (said, proposed)
    assert seconds_of(proposed) >= 1.1 * seconds


@pytest.mark.slow
def test_measuring_leaves_no_trace(
    tmp_path: Path, small: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same network as of a run that was given the epochs and steps, however long they may take."""
    found: list[Costs] = []
    with monkeypatch.context() as patch:
        patch.setattr("training.setup.fitting", lambda costs, *given: found.append(costs) or (2, 3))
        timed = train(small(time="20s", epochs=None), "timed", tmp_path)
    assert found[0].step > 0 < found[0].picture
    config = timed.read("config.json")
    assert (config["time"], config["epochs"], config["steps"]) == (None, 2, 3)
    again = train(small(epochs=config["epochs"], steps=config["steps"]), "again", tmp_path)
    for name, tensor in timed.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


def test_the_time_counts_from_the_commands_begin(tmp_path: Path, small: Callable[..., TrainConfig]) -> None:
    with pytest.raises(LfdeployError, match="too short"):
        prepare(small(time="60s", epochs=None), None, tmp_path, None, [], time.perf_counter() - 58)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainConfig]:
    """A config for forty noisy pictures of 8 pixels a side."""
    file = tmp_path_factory.mktemp("small") / "d.npz"
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(60) % 2
    np.savez(
        file, train_x=pictures[:40], train_y=labels[:40], test_x=pictures[40:], test_y=labels[40:],
        classes=np.array(["a", "b"]),
    )  # fmt: skip

    def config(**given: Any) -> TrainConfig:
        common = {"data": str(file), "arch": "resnet8", "method": "independent", "peers": 1, "epochs": 1}
        return TrainConfig(**common | {"batch_size": 8, "device": "cpu", "precision": "fp32"} | given)

    return config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "finetune"}, "add --weights"),
        ({"train_size": 16}, "add it"),
        ({"method": "one", "peers": 2, "views": "own"}, "drop it"),
    ],
)
def test_what_would_do_nothing_is_refused(
    given: dict[str, Any], said: str, tmp_path: Path, small: Callable[..., TrainConfig]
) -> None:
    with pytest.raises(UsageError, match=said):
        train(small(**given), "run", tmp_path)
    assert not (tmp_path / "run").exists()


def test_another_optimiser_brings_its_own_rate() -> None:
    adamw = resolved(TrainConfig(optimizer="adamw"), data_of(), 3)
    assert (adamw.lr, adamw.weight_decay) == (1e-3, 0.05)
    sgd = resolved(TrainConfig(optimizer="sgd", weights="default"), data_of(), 3)
    assert (sgd.lr, sgd.weight_decay) == (0.01, 5e-4)
    assert resolved(TrainConfig(optimizer="adamw", lr=0.3), data_of(), 3).lr == 0.3


@pytest.mark.parametrize("weights", [None, "default"])
def test_a_config_of_before_recipes_means_what_it_meant(weights: str | None) -> None:
    older = {
        "data": "d.npz", "seed": 1, "arch": "resnet8", "method": "dml", "option": [["temperature", "2"]],
        "weights": weights, "freeze": 0, "epochs": None, "batch_size": None, "lr": None, "weight_decay": 5e-4,
        "schedule": "cosine", "warmup": 0.05, "augment": "auto", "device": "cpu",
    }  # fmt: skip
    for side in (32, 224):
        config = resolved(stored(older), data_of(side=side), 3)
        assert (config.optimizer, config.lr) == ("sgd", 0.01 if weights else 0.1)
        assert (config.augment, config.label_smoothing, config.decay_norms) == ("crop-flip", 0.0, True)
        assert (config.fit_heads, config.keep_statistics, config.freeze_parts) == (False, False, 0)
        assert (config.option, config.epochs, config.fresh_lr) == ((("temperature", "2"),), 7, 1.0)
    assert stored(vars(config) | {"option": [list(pair) for pair in config.option]}) == config


def test_a_config_of_before_keeps_the_attention_that_was_the_default() -> None:
    """What is repeated or gone on with is what was begun; what was asked for stays asked for."""
    now = config_json(TrainConfig())
    assert stored(now).option == ()
    before = {key: value for key, value in now.items() if key != "deterministic"}
    assert parse_options(METHODS["lfmkd"].options, stored(before).option, "lfmkd").attn == "cbam"
    asked = before | {"option": [["attn", "se"]]}
    assert parse_options(METHODS["lfmkd"].options, stored(asked).option, "lfmkd").attn == "se"
    assert stored(before | {"method": "ffl"}).option == ()
