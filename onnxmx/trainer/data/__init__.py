"""Data: what a dataset is, the ones that go by a name, and the loader that cuts them into batches."""

from __future__ import annotations

from onnxmx.trainer.data.dataset import Dataset, Preprocessing
from onnxmx.trainer.data.digits import digits
from onnxmx.trainer.data.idx import parse_idx, read_idx
from onnxmx.trainer.data.loader import Loader
from onnxmx.trainer.data.mnist import mnist
from onnxmx.trainer.data.npz import load_npz
from onnxmx.trainer.data.registry import DatasetInfo, dataset, get_dataset, list_datasets

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Loader",
    "Preprocessing",
    "dataset",
    "digits",
    "get_dataset",
    "list_datasets",
    "load_npz",
    "mnist",
    "parse_idx",
    "read_idx",
]
