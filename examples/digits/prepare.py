"""Write the handwritten digits that come with scikit-learn as one file: 1437 to train on, 360 held out.

The split is fixed, so the same file comes out every time, byte for byte: what was trained on it can be traced to it.

    python prepare.py --data data/digits.npz
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HELD_OUT = 360
SEED = 7


def write_digits(path: Path) -> None:
    """Write the arrays train_images, train_labels, heldout_images, heldout_labels; images are (n, 64), 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train_images, heldout_images, train_labels, heldout_labels = train_test_split(
        images, labels.astype(np.int64), test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(
            file,
            train_images=train_images,
            train_labels=train_labels,
            heldout_images=heldout_images,
            heldout_labels=heldout_labels,
        )
    partial.replace(path)
    print(f"{path}: {len(train_labels)} images to train on, {len(heldout_labels)} held out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the digits as one file.")
    parser.add_argument("--data", type=Path, default=Path("data/digits.npz"))
    write_digits(parser.parse_args().data)
