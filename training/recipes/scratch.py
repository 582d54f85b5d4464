"""Photos without trained weights: random areas, colours, smoothed labels."""

from __future__ import annotations

from training.recipes.recipe import Recipe

RECIPE = Recipe(
    about="SGD with a cosine; random areas and colours, smoothed labels",
    when="photos, without trained weights, by default",
    source="Szegedy et al. 2015 and 2016 (random areas; smoothed labels)",
    decay_norms=False,
    augment="photo",
    label_smoothing=0.1,
    batch_size=32,
)
