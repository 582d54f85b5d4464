"""A training's settings as config.json has them, those of runs before recipes included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfdeploy.config import TrainConfig

#: What every training did before 0.2.0 had recipes, in today's words.
BEFORE_RECIPES = {
    "recipe": "cifar-fast", "optimizer": "sgd", "fresh_lr": 1.0, "decay_norms": True, "label_smoothing": 0.0,
    "views": "shared", "fit_heads": False, "keep_statistics": False, "freeze_parts": 0,
    "policy": "none", "clip_norm": 0.0, "ema": 0.0, "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0,
}  # fmt: skip


def stored(values: Mapping[str, Any]) -> TrainConfig:
    """The settings of a config.json. Raises TypeError, KeyError or ValueError for what is none."""
    known = dict(values) | {"option": tuple((key, value) for key, value in values["option"])}
    if "deterministic" not in known and known.get("method") == "lfmkd":  # as old as attention by default
        known["option"] = (("attn", "cbam"), *known["option"])
    if "recipe" not in known:
        rate = known.get("lr") or (0.01 if known.get("weights") else 0.1)
        augment = None if known.get("augment") == "auto" else known.get("augment")
        known |= BEFORE_RECIPES | {"lr": rate, "augment": augment}
        if not known.get("weights"):
            known["fresh_lr"] = None
        known["freeze"] = str(known.get("freeze", 0))
    return TrainConfig(**known)
