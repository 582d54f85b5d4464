"""What a recipe is: the settings of a training that go together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A row of the table: what is taken for every setting that the user leaves open.

    ``about``, ``when`` and ``source`` are for people. ``epochs`` and ``batch_size`` of None go by the data.
    ``train_size``: the side of the pictures that are trained on, as a share of the model's.
    ``decay_norms``: whether norms and biases are decayed as well. ``views``: whether peers see the same
    augmentation of a picture, or each its own. ``clip_norm``, ``ema``, ``erasing``, ``mixup`` and ``cutmix``
    of 0 are off. With trained weights: ``fresh_lr``, how much faster what does not start from them learns;
    ``fit_heads``, whether new heads are fitted first; ``keep_statistics`` of normalisation; ``frozen``, the
    share of a network's stages, with the stem, whose weights are kept.
    """

    about: str
    when: str
    source: str
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    decay_norms: bool = True
    schedule: str = "cosine"
    warmup: float = 0.05
    epochs: int | None = None
    batch_size: int | None = None
    augment: str = "crop"
    train_size: float = 1.0
    policy: str = "none"
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    views: str = "shared"
    fresh_lr: float = 1.0
    fit_heads: bool = False
    keep_statistics: bool = False
    frozen: float = 0.0
