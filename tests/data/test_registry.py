"""Datasets by name: the registered ones and the user's own files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxmx.errors import DataError, OnnxmxWarning, UsageError
from onnxmx.trainer.data import digits, get_dataset, list_datasets, load_npz

X = np.arange(12, dtype=np.uint8).reshape(4, 3)
Y = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("info", list_datasets(), ids=lambda info: info.name)
def test_every_entry_says_what_it_is(info):
    assert info.summary
    assert info.licence
    assert set(info.to_dict()) >= {"name", "train", "test", "inputs", "classes", "available"}
    if info.available:
        for split, size in (("train", info.train), ("test", info.test)):
            ds = get_dataset(info.name, split)
            assert (ds.name, ds.split, len(ds)) == (info.name, split, size)
            assert (ds.input_shapes, ds.classes) == (info.inputs, info.classes)


def test_digits_is_always_there_and_mnist_is_listed():
    assert {info.name: info.available for info in list_datasets()}["digits"]
    assert [info.name for info in list_datasets()] == ["digits", "mnist"]


@pytest.mark.parametrize(("name", "near"), [("mnits", "mnist"), ("digit", "digits"), ("MNIST", "mnist")])
def test_an_unknown_name_offers_the_nearest(name, near):
    with pytest.raises(UsageError, match=f"no dataset named '{name}'\n  Did you mean '{near}'"):
        get_dataset(name, "train")


def test_eight_bit_images_without_a_scale_are_named(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 3, 3), np.uint8)
    with pytest.warns(OnnxmxWarning, match=r"mine\.npz: 8-bit images .* from 0 to 255; .* scale=1/255"):
        assert load_npz(save(tmp_path, x=images)).preprocessing.scale == 1.0
    for quiet in ({"x": images, "scale": 1 / 255}, {"x": images.astype(np.float32)}, {"x": images[:, 0, 0]}):
        load_npz(save(tmp_path, **quiet))  # warnings are errors here


@pytest.mark.parametrize("name", ["digits", "mnist", "mine.npz"])
def test_an_unknown_split_offers_the_nearest(name):
    with pytest.raises(UsageError, match="no split named 'tset'\n  Did you mean 'test'"):
        get_dataset(name, "tset")


def test_digits_splits_every_fifth_sample_off():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1438, 359)
    # The first samples of the original file are 0, 1, 2, ..., 9: so 4 and 9 are the first of the test split.
    np.testing.assert_array_equal(test.labels["label"][:2], [4, 9])
    np.testing.assert_array_equal(train.labels["label"][:8], [0, 1, 2, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(train.inputs["image"][0, 0, 0], [0, 0, 5, 13, 9, 1, 0, 0])
    counts = np.bincount(np.concatenate([train.labels["label"], test.labels["label"]]))
    np.testing.assert_array_equal(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])  # UCI's own table.
    assert train.batch(slice(None))["image"].max() == 1


def save(tmp_path, **arrays) -> str:
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    return str(tmp_path / "mine.npz")


@pytest.mark.parametrize("ending", ["", "_train"])
def test_a_file_of_ones_own(tmp_path, ending):
    file = save(
        tmp_path,
        **{f"x{ending}": X, f"y{ending}": Y, "x_test": X[:2], "y_test": Y[:2]},
        classes=np.array(["no", "yes"]),
        scale=0.5,
        shift=1,
    )
    train, test = get_dataset(file, "train"), get_dataset("mine.npz", "test", tmp_path)
    assert (len(train), len(test), train.classes) == (4, 2, ("no", "yes"))
    np.testing.assert_array_equal(train.batch([3])["x"], X[3:] * 0.5 + 1)
    np.testing.assert_array_equal(test.batch(slice(None))["label"], [0, 1])


def test_a_file_of_several_inputs_and_labels(tmp_path):
    parts = {"x.user": X[:, 0], "x.item": X[:, 1:], "y.liked": Y, "y.stars": Y + 0.5}
    train = load_npz(save(tmp_path, **parts))
    assert {**train.input_shapes, **train.label_shapes} == {"user": (), "item": (2,), "liked": (), "stars": ()}
    assert train.labels["stars"].dtype == np.float32
    with pytest.warns(OnnxmxWarning, match="has no x_test"):
        assert len(get_dataset(str(tmp_path / "mine.npz"), "test")) == 1
    tested = {name.replace(".", "_test."): array[:2] for name, array in parts.items()}
    assert len(get_dataset(save(tmp_path, **parts, **tested), "test")) == 2
    for wrong, says in (
        ({"x": X}, "expected 'x', or arrays such as 'x.item'; found both"),
        ({"z.user": Y}, "x.<input>, y.<label>; found 'z.user'"),
        ({"x.": X}, "found 'x.'"),
        ({"scale.user": 1.0}, "found 'scale.user'"),
        ({"x.late": X[:1]}, "same number of samples"),
    ):
        with pytest.raises(DataError, match=re.escape(says)):
            load_npz(save(tmp_path, **parts, **wrong))


@pytest.mark.parametrize("count", [2, 7, 500])
def test_a_file_without_a_test_split_is_divided(tmp_path, count):
    """A fifth is held out, at random from all over the file, the same each time; no sample is in both parts."""
    file = save(tmp_path, x=np.arange(count), y=np.arange(count) * 5 // count)  # sorted by class
    with pytest.warns(OnnxmxWarning, match=f"mine.npz has no x_test: a fifth of its {count} samples"):
        train, test, again = (get_dataset(file, split) for split in ("train", "test", "test"))
    assert (train.split, test.split, len(test)) == ("train", "test", max(1, count // 5))
    np.testing.assert_array_equal(again.inputs["x"], test.inputs["x"])
    both = np.concatenate([train.inputs["x"], test.inputs["x"]])
    assert sorted(both.tolist()) == list(range(count))
    for part in (train, test):
        np.testing.assert_array_equal(part.labels["label"], part.inputs["x"] * 5 // count)
    if count == 500:
        assert np.bincount(test.labels["label"], minlength=5).min() >= 10
    assert len(load_npz(file)) == count


def test_the_test_split_of_a_file_is_the_same_for_ever(tmp_path):
    """Under another NumPy, samples that were trained on must not become those that are evaluated on."""
    with pytest.warns(OnnxmxWarning, match="has no x_test"):
        test = get_dataset(save(tmp_path, x=np.arange(20), y=np.zeros(20, int)), "test")
    assert test.inputs["x"].tolist() == [0, 2, 11, 17]


def test_one_sample_cannot_be_divided(tmp_path):
    with pytest.raises(DataError, match=r"mine\.npz.* expected 2 samples or more, one of them to test; found 1"):
        get_dataset(save(tmp_path, x=X[:1], y=Y[:1]), "test")
    with pytest.raises(DataError, match="expected an array 'x_test' for the test split"):
        get_dataset(save(tmp_path, x=X, y=Y, y_test=Y), "test")
    with pytest.raises(DataError, match="expected an array 'x' for the train split"):
        get_dataset(save(tmp_path, x_test=X, y_test=Y), "train")


@pytest.mark.parametrize("twice", [{"x_train": X}, {"x_train.a": X}, {"y_train": Y}])
def test_two_names_for_one_split(tmp_path, twice):
    name = min(twice).partition("_")[0]
    with pytest.raises(DataError, match=f"expected one of '{name}' and '{name}_train', .*; found both"):
        load_npz(save(tmp_path, x=X, y=Y, **twice))


def test_labels_are_optional_in_a_file_of_ones_own(tmp_path):
    assert load_npz(save(tmp_path, x=X)).labels == {}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": X, "y": Y}, r"an array 'x_test' for the test split; found \['x', 'y'\]"),
        ({"x_test": X, "y_tset": Y}, r"found 'y_tset'\n  Did you mean 'y_test'"),
        ({"x_test": X, "y_test": Y[:3]}, "same number of samples"),
        ({"x_test": X, "y_test": Y, "classes": np.array(["one"])}, r"mine\.npz.*\[0, 1\).*found 1 in sample 1"),
        ({"x_test": X, "classes": np.array([1, 2])}, "'classes' as strings"),
        ({"x_test": X, "scale": np.ones(2)}, "'scale' as one number"),
        ({"x_test": np.array([{}, None])}, "of plain arrays; found: Object arrays"),
    ],
)
def test_a_file_that_does_not_do(tmp_path, arrays, problem):
    with pytest.raises(DataError, match=problem):
        load_npz(save(tmp_path, **arrays), "test")


def test_a_damaged_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.npz"
    save(tmp_path, x=X, y=Y)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"mine\.npz: expected a \.npz file"):
            load_npz(path)
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(DataError, match="a single array"):
        load_npz(tmp_path / "one.npy")
    with pytest.raises(DataError, match="No such file"):
        get_dataset("gone.npz", "train", tmp_path)


def test_the_package_is_cheap_to_import():
    """No third party but NumPy, and no HTTP client, until something asks for it."""
    code = "import sys, onnxmx.trainer.data; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "onnxmx.trainer.data" in loaded
    assert not loaded & {"onnx", "onnx_ir", "onnxruntime", "rich", "click", "urllib.request"}
