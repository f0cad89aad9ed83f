"""What a generator makes, as one picture of many images, and as a classifier sees it."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmx.builder.arguments import checked_arguments, integer
from onnxmx.builder.literals import is_finite
from onnxmx.builder.model import Model
from onnxmx.builder.source import user_line
from onnxmx.errors import MissingExtraError, ShapeError, UsageError
from onnxmx.files import write_atomic
from onnxmx.trainer.callbacks import Callback, Measures

if TYPE_CHECKING:
    from onnxmx.trainer.loop import Loop

Array = np.ndarray[Any, Any]
_GAP = 2
"""Pixels between two images."""


def noise_for(generator: Model, count: int, seed: int) -> Array:
    """Noise for `count` samples, float32 (count, ...): the same for the same seed."""
    (port,) = generator.inputs.values()
    sizes = [int(d) for d in (port.shape or ())[1:] if isinstance(d, int)]
    # Philox' raw numbers and not Generator.normal: numpy may change what it makes of them (NEP 19).
    raw = np.random.Philox(key=seed).random_raw((count * math.prod(sizes) + 1) // 2 * 2)
    u, v = (np.asarray(raw, np.uint64) >> np.uint64(11)).reshape(2, -1) * 2.0**-53
    normal = np.sqrt(-2 * np.log(1 - u)) * np.stack([np.cos(2 * np.pi * v), np.sin(2 * np.pi * v)])
    found: Array = normal.ravel()[: count * math.prod(sizes)].reshape(count, *sizes).astype(np.float32)
    return found


def write_grid(path: str | os.PathLike[str], images: Array) -> None:
    """Write images as one PNG, in rows of about as many as there are rows.

    images: (n, 1 or 3, height, width), from -1 to 1. Raises MissingExtraError without Pillow.
    """
    from PIL.Image import fromarray

    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), np.uint8)
    for k, pixels in enumerate(np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8)):
        y, x = k // columns * (height + _GAP), k % columns * (width + _GAP)
        grid[y : y + height, x : x + width] = pixels.transpose(1, 2, 0)
    file = io.BytesIO()
    fromarray(grid[..., 0] if channels == 1 else grid).save(file, "PNG")
    write_atomic(path, file.getvalue())


@checked_arguments
def judge(
    generator: Model,
    classifier: Model,
    *,
    samples: int = 1000,
    confidence: float = 0.9,
    scale: float = 0.5,
    shift: float = 0.5,
    seed: int = 1,
) -> dict[str, Any]:
    """What a classifier makes of a generator's images.

    confidence: what the greatest probability must exceed.
    scale, shift: from the generator's -1..1 to what the classifier takes, by default 0..1.
    Raises UsageError for a number that is none.
    Returns `confident`, the share of such images, and `classes`, how many of them each class has.
    """
    samples, seed = integer("samples", samples, 1), integer("seed", seed, 0, 2**64)
    for name, number in (("confidence", confidence), ("scale", scale), ("shift", shift)):
        if not is_finite(number):
            raise UsageError(f"judge expected {name} as a finite number; found {number!r}", at=user_line())
    images: Array = generator(noise_for(generator, samples, seed))
    logits: Array = classifier(images * np.float32(scale) + np.float32(shift))
    whole = np.allclose(logits.sum(1), 1, atol=1e-3) and (logits >= 0).all()  # probabilities already
    odds = np.exp(logits - logits.max(1, keepdims=True))
    p = logits if whole else odds / odds.sum(1, keepdims=True)
    sure = p.max(1) > confidence
    counts = np.bincount(p.argmax(1)[sure], minlength=p.shape[1])
    return {"confident": float(sure.mean()), "classes": counts.tolist()}


class Samples(Callback):
    """After each epoch, samples/epoch-<n>.png of the same noise, and discriminator.onnx."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def begin(self, loop: Loop) -> None:
        if loop.folder is None or not self._count:
            return
        try:
            import PIL  # noqa: F401 - found missing before the training, not after an epoch
        except ImportError:
            raise MissingExtraError("Pillow", "data", "A picture of samples") from None
        (port,) = loop.trainer.model.outputs.values()
        if port.shape is None or len(port.shape) != 4 or port.shape[1] not in (1, 3):
            raise ShapeError(
                f"a picture of samples expected images of 1 or 3 channels; found {port.shape}",
                mend="Train without pictures: samples=0.",
            )

    def epoch(self, loop: Loop, measures: Measures) -> None:
        if loop.folder is None:
            return
        trainer: Any = loop.trainer
        write_atomic(loop.folder / "discriminator.onnx", trainer.discriminator.to_bytes())
        if self._count:
            generator = trainer.model
            images = generator(noise_for(generator, self._count, self._seed))
            write_grid(loop.folder / "samples" / f"epoch-{measures['epoch']}.png", images)
