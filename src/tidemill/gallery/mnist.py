"""MNIST: which digit is in an image of 28 x 28 pixels? A small convolutional network in PyTorch.

    pip install 'tidemill[torch]'
    tidemill train --project gallery:mnist --set cnn.epochs=3 --set cnn.lr=0.002

The 70,000 images come from openml.org. Without internet access, scikit-learn's 1,797 digits are
used instead, scaled up to the same size; a warning and the runs' tags say so. PyTorch is needed for
training only: the served model is ONNX.
"""

import logging
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from tidemill import Candidate, Gate, Project, Tensor, openml
from tidemill.errors import DataError, ProjectError

SIDE = 28
logger = logging.getLogger(__name__)


def images() -> pd.DataFrame:
    """One image a row: 784 pixels from 0 (paper) to 255 (ink), and the digit."""
    try:
        frame = openml("mnist_784").load()
    except DataError as error:
        logger.warning("%s Training on scikit-learn's 8 x 8 digits, scaled up, instead.", error)
        return small_images()
    return _table(frame.drop(columns="class").to_numpy(), frame["class"], "openml:mnist_784")


def small_images() -> pd.DataFrame:
    """scikit-learn's digits in the same format: pixels repeated 3 x 3, with a margin of two."""
    digits = load_digits()
    wide = digits.images.repeat(3, axis=1).repeat(3, axis=2) * (255 / 16)
    framed = np.pad(wide, ((0, 0), (2, 2), (2, 2))).reshape(len(wide), -1)
    mixed = np.random.default_rng(0).permutation(len(wide))  # they are grouped by writer
    source = "scikit-learn:digits scaled to 28x28, because mnist_784 was not available"
    return _table(framed[mixed], digits.target[mixed], source)


def _table(pixels: Any, digits: Any, source: str) -> pd.DataFrame:
    names = [f"pixel{number}" for number in range(1, SIDE * SIDE + 1)]
    table = pd.DataFrame(pixels.astype("uint8"), columns=names)
    table["digit"] = np.asarray(digits, dtype="int64")
    table.attrs["source"] = source
    return table


def layers() -> Any:
    """The layers, from raw pixels to one score for each digit; the first learns the scale."""
    from torch import nn

    return nn.Sequential(
        *(nn.BatchNorm2d(1), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),  # 16 x 13 x 13
        *(nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),  # 32 x 5 x 5
        *(nn.Linear(32 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def network(epochs: int = 3, lr: float = 0.002, batch_size: int = 64) -> Any:
    """The network as a scikit-learn classifier; the learning rate decreases to zero."""
    try:
        import torch
        from skorch import NeuralNetClassifier
        from skorch.callbacks import LRScheduler
    except ImportError as error:
        raise ProjectError(
            f"This project needs PyTorch, and {error.name} is not installed.",
            remedy="Run `pip install 'tidemill[torch]'`; PyTorch's build for CPUs is sufficient.",
        ) from error
    return NeuralNetClassifier(
        layers,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[("fall", LRScheduler("CosineAnnealingLR", T_max=epochs))],
        verbose=0,
    )


project = Project(
    name="mnist",
    description="Recognizes a handwritten digit in an image of 28 x 28 pixels, 0 to 255.",
    data=images,
    target="digit",
    task="classification",
    tensor=Tensor("image", (1, SIDE, SIDE)),
    test_size=1 / 7,
    shuffle=False,  # the last 10,000 of the 70,000 are MNIST's official test images
    candidates=[Candidate("cnn", network, {"epochs": 3, "lr": 0.002})],
    gate=Gate(metric="accuracy", minimum={"accuracy": 0.95}),
)
