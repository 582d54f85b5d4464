"""Small pictures in few epochs: one cosine, with the decay of Zagoruyko and Komodakis (2016)."""

from __future__ import annotations

from training.recipes.recipe import Recipe

RECIPE = Recipe(
    about="SGD with a cosine over as many epochs as the data need; crops and mirroring",
    when="small pictures, by default",
    source="Zagoruyko and Komodakis 2016 (weight decay); Loshchilov and Hutter 2017 (cosine)",
)
