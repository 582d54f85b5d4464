"""The table of recipes, and what it makes of a config whose settings were left open."""

from __future__ import annotations

import math
from dataclasses import replace

from lfdeploy.config import TrainConfig
from lfdeploy.data import Data
from lfdeploy.errors import UsageError, choose
from training.recipes import cifar, cifar_fast, finetune, imagenet, scratch
from training.recipes.recipe import Recipe as Recipe

RECIPES = {
    "cifar": cifar.RECIPE,
    "cifar-fast": cifar_fast.RECIPE,
    "scratch": scratch.RECIPE,
    "finetune": finetune.RECIPE,
    "imagenet": imagenet.RECIPE,
}
PHOTO = 96  # pixels a side from which pictures are photos
STRIDE = 32  # a training size is a multiple of it


#: Settings that are taken from a recipe as they are.
PLAIN = ("policy", "clip_norm", "ema", "erasing", "mixup", "cutmix")


def chosen(config: TrainConfig, image_size: int) -> str:
    """The recipe's name: the one asked for, else by weights and size."""
    if config.recipe:
        choose("recipe", config.recipe, list(RECIPES))
        if config.recipe == "finetune" and not config.weights:
            raise UsageError("--recipe finetune starts from trained weights: add --weights.")
        return config.recipe
    return "finetune" if config.weights else "scratch" if image_size >= PHOTO else "cifar-fast"


def resolved(config: TrainConfig, data: Data, stages: int) -> TrainConfig:
    """The config with every open setting filled from its recipe; ``stages``: of the shortest network."""
    name = chosen(config, data.image_size)
    recipe, warm, photo = RECIPES[name], bool(config.weights), data.image_size >= PHOTO
    kind = recipe.augment if photo else "crop"
    values = {
        "optimizer": recipe.optimizer,
        "lr": recipe.lr,
        "weight_decay": recipe.weight_decay,
        "decay_norms": recipe.decay_norms,
        "schedule": recipe.schedule,
        "warmup": recipe.warmup,
        "epochs": recipe.epochs or data.epochs,
        "batch_size": recipe.batch_size
        or max(8, min(128, 2 ** int(math.log2(max(1, len(data.train) / 16))))),
        "augment": kind if kind != "crop" or not data.flip else "crop-flip",
        "train_size": _train_size(recipe.train_size, data.image_size) if photo else data.image_size,
        "label_smoothing": recipe.label_smoothing,
        **{key: getattr(recipe, key) for key in PLAIN},
        "fresh_lr": recipe.fresh_lr if warm else 1.0,
        "views": recipe.views,
        "fit_heads": warm and recipe.fit_heads,
        "keep_statistics": warm and photo and recipe.keep_statistics,
        "freeze": "0",
        "freeze_parts": 1 + int(stages * recipe.frozen) if warm and photo and recipe.frozen else 0,
    }
    if config.optimizer not in (None, recipe.optimizer):  # the recipe's rate is for another
        rates = {"sgd": (0.01 if warm else 0.1, 5e-4), "adamw": (5e-4 if warm else 1e-3, 0.05)}
        values["lr"], values["weight_decay"] = rates[config.optimizer or "sgd"]
    if config.time:
        del values["epochs"]  # as many as fit
    open_ones = {key: value for key, value in values.items() if getattr(config, key) is None}
    found = replace(config, recipe=name, **open_ones)
    return replace(found, batch_size=min(found.batch_size or 1, len(data.train)))


def _train_size(share: float, size: int) -> int:
    """The share of a size, to the nearest multiple of `STRIDE`; the size itself for all of it."""
    return size if share == 1 else max(STRIDE, round(share * size / STRIDE) * STRIDE)
