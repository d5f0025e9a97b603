"""`predict`: the most probable classes of images, by a model that `load` returned."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..common.checks import AnyPath, quoted, whole_number
from ..errors import DataError
from .data.images import Transform, check_suffix, open_rgb, rgb
from .loading import Loaded

_BATCH = 64


class Prediction(NamedTuple):
    """The most probable classes of one image.

    Attributes:
        image: The path of the image, or its position among the images.
        classes: The names of the classes, the most probable first.
        probabilities: Their probabilities, from 0 to 1.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(loaded: Loaded, images: Iterable[AnyPath | Image.Image], *, top: int = 5) -> tuple[Prediction, ...]:
    """Return the most probable classes of images.

    Args:
        loaded: A model with its preprocessing and classes, as `load` returns it.
        images: Paths of image files, or images of Pillow.
        top: The number of classes for each image; fewer if the model has fewer.

    Returns:
        One prediction for each image, in their order.

    Raises:
        DataError: `loaded` or an image is of another type; a file is not a readable image, or not named like one; the
            model takes no images, has no classifier, or has another number of classes than there are names.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from tensorfact import adapt, load
        >>> from tensorfact.lab import nano, predict
        >>> folder = tempfile.mkdtemp()
        >>> adapt(nano()).save_pretrained(folder, classes=[f"class {number}" for number in range(10)])
        >>> [found] = predict(load(folder), [Image.new("RGB", (28, 28))], top=2)
        >>> len(found.classes), found.probabilities[0] >= found.probabilities[1]
        (2, True)
    """
    if not (isinstance(loaded, tuple) and len(loaded) == 3 and isinstance(loaded[0], nn.Module)):
        raise DataError(
            "predict: loaded",
            expected="what tensorfact.load returns",
            got=quoted(loaded),
            fix="predict(tensorfact.load(folder), images)",
        )
    model, transform, classes = loaded
    require_classifier(model, "predict")
    top = whole_number(top, "predict: top", DataError, example=5)
    if transform is None:
        raise DataError(
            f"predict: {type(model).__name__} has no preprocessing of images",
            cause="a model of text, or an adapter saved without transform=",
            fix="call the model on your own inputs",
        )
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image, io.IOBase))
    if single or not isinstance(images, Iterable):
        raise DataError("predict: images", expected="a list of images", got=quoted(images), fix="pass ['photo.jpg']")
    found: list[Prediction] = []
    for names, inputs in _batches(images, transform):
        shares = probabilities(model, inputs)
        labels = classes or tuple(map(str, range(shares.shape[1])))
        if len(labels) != shares.shape[1]:
            raise DataError(
                "predict: the names of the classes",
                expected=f"{shares.shape[1]}, as the model has",
                got=str(len(labels)),
                fix="save the adapter again with adapter.save_pretrained(folder, classes=names)",
            )
        values, indices = shares.topk(min(top, shares.shape[1]))
        for name, value, index in zip(names, values.tolist(), indices.tolist(), strict=True):
            found.append(Prediction(name, tuple(labels[at] for at in index), tuple(value)))
    return tuple(found)


def require_classifier(model: nn.Module, what: str) -> None:
    """Raise for a model that says that it has no classes, whose outputs are features.

    Args:
        model: The model.
        what: What needs a classifier, for the message.

    Raises:
        DataError: The model has no classifier.
    """
    if getattr(model, "num_classes", None) == 0:
        raise DataError(
            f"{what}: {type(model).__name__} has no classifier: its outputs are features, not classes",
            cause="a model that was made with num_classes=0",
            fix="train an adapter on images of classes, which adds a classifier: tensorfact train MODEL DATA --out "
            "FOLDER; or call the model for its features: model(transform(image)[None])",
        )


def probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the probabilities of all classes, in evaluation mode and without gradients.

    Args:
        model: Maps images to logits, or to an output of transformers with logits.
        inputs: Preprocessed images (batch, channels, height, width).

    Returns:
        Probabilities (batch, class) on the CPU, in at least fp32.

    Raises:
        DataError: The output is no logits (batch, class).
    """
    parameter = next(model.parameters(), None)
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():  # not inference_mode: models keep tensors of a forward pass, and train with them later
            output = model(inputs if parameter is None else inputs.to(parameter.device, parameter.dtype))
    finally:
        model.train(mode)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise DataError(
            f"predict: the output of {type(model).__name__}",
            expected="logits (batch, class)",
            got=str(tuple(logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__,
            cause="a model without a classifier, or without pooling",
            fix="call the model on your own inputs",
        )
    shares: Tensor = logits.float().softmax(-1) if logits.dtype.itemsize < 8 else logits.softmax(-1)
    return shares.cpu()


def _batches(images: Iterable[AnyPath | Image.Image], transform: Transform) -> Iterator[tuple[Sequence[str], Tensor]]:
    """Yield the names and the preprocessed images of every batch."""
    remaining = enumerate(images)
    while batch := list(islice(remaining, _BATCH)):
        for at, image in batch:
            _require_image(at, image)
        names = [str(at) if isinstance(image, Image.Image) else os.fspath(image) for at, image in batch]
        opened = [rgb(image) if isinstance(image, Image.Image) else _open(image) for _, image in batch]
        yield [str(name) for name in names], torch.stack([transform(image) for image in opened])


def _require_image(at: int, image: object) -> None:
    """Raise unless an image is given by its path or as an image of Pillow."""
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise DataError(
            f"predict: image {at}",
            expected="a path, or an image of Pillow",
            got=type(image).__name__,
            cause="pixels, or an open file",
            fix="PIL.Image.fromarray(pixels), with uint8 pixels (height, width, 3), or the path of the file; "
            "model(inputs) for tensors that are preprocessed",
        )


def _open(path: AnyPath) -> Image.Image:
    """Read an image file that is named as those of training are."""
    if os.path.isfile(path):
        check_suffix(os.fsdecode(path))
    return open_rgb(path)
