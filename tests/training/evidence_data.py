"""The pictures of `make evidence`: two npz files of CIFAR-100, one to choose by and one to prove with.

Both train on the same 10,000 pictures of its training split, a hundred of each class. `choice.npz` is judged
on 5,000 others of the training split; `proof.npz` on its test split, which nothing was chosen by.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TRAINED, JUDGED = 100, 50  # of each class


def main(data: Path, out: Path) -> None:
    with np.load(data) as arrays:
        pixels, labels, classes = arrays["train_x"], arrays["train_y"], arrays["classes"]
        test = {name: arrays[name] for name in ("test_x", "test_y")}
    mixed = np.random.default_rng(0).permutation(len(labels))
    by_class = [mixed[labels[mixed] == label] for label in range(len(classes))]
    trained = np.concatenate([rows[:TRAINED] for rows in by_class])
    judged = np.concatenate([rows[TRAINED : TRAINED + JUDGED] for rows in by_class])
    out.mkdir(parents=True, exist_ok=True)
    train = {"train_x": pixels[trained], "train_y": labels[trained], "classes": classes}
    np.savez(out / "choice.npz", **train, test_x=pixels[judged], test_y=labels[judged])
    np.savez(out / "proof.npz", **train, **test)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
