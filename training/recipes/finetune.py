"""From trained weights: AdamW; for photos the early stages kept as they are, and pictures smaller than the
model's.

New heads are fitted before anything else learns (Kumar et al. 2022). Things seem larger in random areas than
in evaluation, which smaller training pictures make up for (Touvron et al. 2019): on 763 photos 192 px was
1.8 points better than 160, at 224 in evaluation, after 4 epochs of one network and one seed.
"""

from __future__ import annotations

from training.recipes.recipe import Recipe

RECIPE = Recipe(
    about="heads first, then AdamW with a cosine; of photos' networks stem and half of the stages stay",
    when="--weights, by default",
    source="Loshchilov and Hutter 2019 (AdamW); Kumar et al. 2022 (heads); Touvron et al. 2019 (sizes)",
    optimizer="adamw",
    lr=5e-4,
    weight_decay=0.05,
    decay_norms=False,
    warmup=0.1,
    epochs=10,
    batch_size=32,
    augment="photo",
    train_size=6 / 7,
    label_smoothing=0.1,
    fresh_lr=4.0,
    fit_heads=True,
    keep_statistics=True,
    frozen=0.5,
)
