"""As torchvision's reference trains classifiers of photos: 90 epochs of SGD."""

from __future__ import annotations

from training.recipes.recipe import Recipe

RECIPE = Recipe(
    about="90 epochs of SGD at batch 256, the decay of He et al.; random areas and colours",
    when="a hundred thousand photos or more, and a GPU",
    source="He et al. 2016 and torchvision's references",
    weight_decay=1e-4,
    epochs=90,
    batch_size=256,
    augment="photo",
)
