"""The UCI digits: 1,797 handwritten digits of 8x8 pixels, embedded in the package, for demonstrations and tests.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49: its test part, in the order of scikit-learn's digits.csv. Licence: CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. Changed only in form: stored as unsigned bytes in digits.npz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.errors import DataError
from onnxmx.trainer.data.dataset import Dataset, Preprocessing
from onnxmx.trainer.data.registry import DataDir, check_split, dataset

_FILE = Path(__file__).with_name("digits.npz")
_CLASSES = tuple("0123456789")


@dataset(
    "digits",
    summary="handwritten digits, 8x8 grey, embedded",
    train=1_438,
    test=359,
    inputs={"image": (1, 8, 8)},
    classes=_CLASSES,
    licence="CC BY 4.0",
)
@checked_arguments
def digits(split: str, data_dir: DataDir = None) -> Dataset:
    """The train or test split: image uint8 (n, 1, 8, 8) with values 0..16, scaled to 0..1 in a batch; label int64 (n,).

    Every fifth sample (index % 5 == 4) is test, the others are train. data_dir: not used, the data is embedded.
    Raises DataError when the installed file is damaged.
    """
    check_split(split)
    try:
        with np.load(_FILE, allow_pickle=False) as archive:
            images, labels = archive["image"], archive["label"]
    except Exception as cause:  # zipfile, zlib and numpy each have their own words for damage.
        raise DataError(
            f"{_FILE}: expected the embedded digits; found: {cause}", mend="Install onnxmx again."
        ) from cause
    is_test = np.arange(len(images)) % 5 == 4
    chosen = is_test if split == "test" else ~is_test
    return Dataset(
        name="digits",
        split=split,
        inputs={"image": images[chosen]},
        labels={"label": labels[chosen]},
        classes=_CLASSES,
        preprocessing=Preprocessing(scale=1 / 16),
    )
