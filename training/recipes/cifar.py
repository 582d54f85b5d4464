"""As FFL trained on CIFAR (Kim et al. 2020 and its released code): the published tables' schedule."""

from __future__ import annotations

from training.recipes.recipe import Recipe

RECIPE = Recipe(
    about="300 epochs of SGD, the rate divided by 10 after 150 and 225; crops and mirroring",
    when="a published table of CIFAR is to be compared with, and there is a GPU",
    source="Kim et al. 2020, Feature Fusion for Online Mutual Knowledge Distillation, and its released code",
    weight_decay=1e-4,
    schedule="step",
    warmup=0.0,
    epochs=300,
    batch_size=128,
)
