"""What a dataset accepts, refuses, and hands to a model."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmx.errors import DataError, UsageError
from onnxmx.trainer.data import Dataset, Preprocessing

IMAGES = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2)
LABELS = np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)


def make(**changes):
    arguments = {"inputs": {"image": IMAGES}, "labels": {"label": LABELS}, "classes": ("a", "b", "c"), "scale": 0.5}
    return Dataset.from_arrays(**(arguments | changes))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i4", "i8", "?", "f2", ">f4", "f8"])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 3.0), (0.25, 0.0), (0.25, -1.0)])
def test_preprocessing_is_scale_then_shift_in_float32(dtype, scale, shift):
    stored = np.array([[0, 1, 5], [7, 100, 1]]).astype(dtype)[:, ::-1]  # A view that is not contiguous.
    y = Preprocessing(scale, shift).apply(stored)
    assert (y.dtype, y.flags.c_contiguous, y.flags.writeable) == (np.float32, True, True)
    np.testing.assert_array_equal(y, stored.astype(np.float64) * scale + shift)  # Exact: all are dyadic numbers.


def test_preprocessing_never_returns_its_argument():
    stored = np.ones(3, dtype=np.float32)
    assert not np.shares_memory(Preprocessing().apply(stored), stored)


def test_preprocessing_survives_a_dictionary():
    assert Preprocessing.from_dict(Preprocessing(1 / 255, -0.5).to_dict()) == Preprocessing(1 / 255, -0.5)


@pytest.mark.parametrize(
    "values",
    [{"scale": "2"}, {"scale": float("nan")}, {"scale": 1e39}, {"shift": 10**400}, {"shift": True}, {"scala": 1.0}],
)
def test_preprocessing_refuses(values):
    with pytest.raises(DataError, match="preprocessing"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("indices", [[4, 0, 4], np.array([4, 0, 4], dtype=np.uint8)])
def test_batch_is_preprocessed_and_in_order(indices):
    batch = make().batch(indices)
    assert list(batch) == ["image", "label"]
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int64
    np.testing.assert_array_equal(batch["image"], IMAGES[[4, 0, 4]] * 0.5)
    np.testing.assert_array_equal(batch["label"], [1, 0, 1])


def test_batch_by_slice_and_by_mask():
    ds = make()
    np.testing.assert_array_equal(ds.batch(slice(1, 3))["label"], [1, 2])
    np.testing.assert_array_equal(ds.batch(LABELS == 2)["image"], IMAGES[[2, 5]] * 0.5)
    assert ds.batch([])["image"].shape == (0, 1, 2, 2)


@pytest.mark.parametrize("indices", [[6], [-1], [0.5], [[0, 1]], [True, False], [[0], [0, 1]], None])
def test_batch_refuses_indices(indices):
    with pytest.raises(DataError, match="expected indices"):
        make().batch(indices)


def test_a_batch_can_be_changed_and_the_dataset_cannot():
    ds = make()
    before = ds.digest()
    for batch in (ds.batch(slice(None)), ds.batch([0])):
        batch["image"][:] = 9
        batch["label"][:] = 9
    assert make().digest() == before
    for array in (ds.inputs["image"], ds.labels["label"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert IMAGES.flags.writeable


def test_regression_targets_are_float32_and_free_of_classes():
    ds = Dataset.from_arrays(np.ones((3, 2)), np.array([0.5, -2.0, 99.0]))
    assert list(ds.inputs) == ["x"]
    assert ds.batch([2])["label"].dtype == np.float32
    assert ds.batch([2])["label"] == 99


def test_shapes_subset_take_rename():
    ds = make()
    assert (len(ds), ds.input_shapes, ds.label_shapes) == (6, {"image": (1, 2, 2)}, {"label": ()})
    np.testing.assert_array_equal(ds.subset([5, 1]).labels["label"], [2, 1])
    assert (len(ds.take(2)), len(ds.take(100))) == (2, 6)
    assert list(ds.rename({"image": "x", "label": "y"}).batch([0])) == ["x", "y"]
    with pytest.raises(UsageError, match="at least 1 sample"):
        ds.take(0)


@pytest.mark.parametrize(("count", "share", "held"), [(2, 0.2, 1), (2, 0.9, 1), (10, 0.25, 2), (101, 0.5, 50)])
def test_hold_out(count, share, held):
    whole = Dataset.from_arrays(np.arange(count), np.arange(count) * 2)
    train, test = whole.hold_out(share)
    assert (train.split, len(train), test.split, len(test)) == ("train", count - held, "test", held)
    found = [part.inputs["x"] for part in (train, test)]
    assert all((np.diff(x) > 0).all() for x in found)  # in the order of the whole
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(count))
    np.testing.assert_array_equal(train.labels["label"], found[0] * 2)
    assert whole.hold_out(share)[1].digest() == test.digest()
    if count > 10:
        assert whole.hold_out(share, seed=1)[1].digest() != test.digest()


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, "a", None])
def test_a_share_that_is_none(share):
    with pytest.raises(UsageError, match=r"hold_out expected (a share between 0 and 1|share as a number)"):
        make().hold_out(share)
    for seed in (-1, 2**64, 0.5, np.inf):
        with pytest.raises(UsageError, match="seed expected an integer"):
            make().hold_out(seed=seed)
    with pytest.raises(DataError, match="2 samples or more"):
        make().take(1).hold_out()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inputs": {}}, "at least one input"),
        ({"inputs": {"image": IMAGES[:0]}}, r"found an array of shape \(0, 1, 2, 2\)"),
        ({"inputs": {"image": 3.0}}, "an array of samples in 'image'; found float\n"),
        (
            {"inputs": {"image": np.array(3.0)}},
            r"^dataset 'arrays' .* samples in 'image'; found an array of shape \(\)",
        ),
        ({"labels": {"label": iter(LABELS)}}, "in 'label'; found iterator\n(.|\n)*becomes a list first"),
        ({"labels": {"label": {0, 1}}}, "in 'label'; found set\n"),
        ({"inputs": {"image": None}}, "in 'image'; found NoneType\n"),
        ({"inputs": {"image": IMAGES.astype(complex)}}, "expected numbers in 'image'; found complex128"),
        ({"inputs": {"image": IMAGES.astype("datetime64[s]")}}, r"found datetime64\[s\]"),
        ({"inputs": {"image": np.zeros(6, "f4,i4")}}, "expected numbers in 'image'; found "),
        (
            {"inputs": {"image": np.ma.masked_equal(IMAGES, 9)}},
            "in 'image'; found 1 under a mask, the first in sample 2",
        ),
        ({"labels": {"label": np.ma.masked_greater(LABELS, 0)}}, "found 4 under a mask, the first in sample 1"),
        (
            {"labels": {"label": np.uint64([0] * 5 + [2**63])}},
            "below 2.63 in 'label'; found 9223372036854775808 in sample 5",
        ),
        ({"inputs": {"image": IMAGES[:5]}}, "same number of samples.*'image': 5, 'label': 6"),
        ({"inputs": {"label": IMAGES}}, "different names"),
        ({"inputs": {"image": np.array(["a"] * 6)}}, "expected numbers in 'image'; found <U1"),
        ({"inputs": {"image": np.full(6, None)}}, "expected numbers in 'image'; found object"),
        ({"labels": {"label": [0, 1, 3, 7, 0, 0]}}, r"\[0, 3\).*found 3 in sample 2"),
        ({"labels": {"label": [0, 1, 2, 0, 0, -1]}}, r"\[0, 3\).*found -1 in sample 5"),
        ({"labels": {"label": [[0, 1]] * 5 + [[2, 9]]}}, "found 9 in sample 5"),
        ({"labels": {"label": [0, 1, 2, 0, np.nan, 1]}}, "finite.*'label'; found nan in sample 4"),
    ],
)
def test_refuses(changes, problem):
    with pytest.raises(DataError, match=problem):
        make(**changes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_names_the_sample_that_is_not_finite_beyond_the_first_block(bad):
    x = np.zeros((5000, 300))
    x[4321, 7] = bad
    with pytest.raises(DataError, match="in sample 4321"):
        Dataset.from_arrays(x)


def test_check_classes_against_a_model():
    make().check_classes(3)
    with pytest.raises(DataError, match=r"\[0, 2\), one of 2 classes; found 2 in sample 2"):
        make().check_classes(2)


def test_a_part_names_the_sample_of_the_whole():
    whole = Dataset.from_arrays(np.arange(40), np.arange(40), name="mine")
    assert whole.read_from(7) == ("dataset 'mine' (train)", 7)
    for part in whole.hold_out(0.25):
        for cut in (part, part.rename({"x": "image"}), part.take(4), part.subset(slice(None, None, -2)).subset([3, 1])):
            found = [cut.read_from(k) for k in range(len(cut))]
            assert found == [("dataset 'mine' (train)", row) for row in cut.labels["label"].tolist()]
        last = int(part.labels["label"][-1])
        with pytest.raises(DataError, match=rf"^dataset 'mine' \(train\) expected .*; found {last} in sample {last}\n"):
            part.check_classes(last)
        assert part.digest() == Dataset.from_arrays(part.inputs["x"], part.labels["label"]).digest()


@pytest.mark.parametrize("kind", ["longdouble", ">f8", "f4", "f2", "u8", ">i8", "?"])
def test_every_type_of_numbers_does(kind):
    """longdouble is no type of ONNX, and its bytes are others on each kind of machine."""
    x, y = np.ones((6, 2), kind), LABELS.astype(kind)
    data = Dataset.from_arrays(x, y).hold_out(0.5)[0]
    assert {k: array.dtype.name for k, array in data.batch([0]).items()} == {
        "x": "float32",
        "label": "float32" if y.dtype.kind == "f" else "int64",
    }
    assert len(data.digest()) == 64
    assert len(Dataset.from_arrays(np.ma.array(x), np.ma.array(y))) == 6  # nothing is masked


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(float).max, reason="longdouble is float64 here")
def test_a_longdouble_beyond_float64():
    with pytest.raises(DataError, match="found inf in sample 1"):
        Dataset.from_arrays(np.array([1, np.finfo(np.longdouble).max]))


def test_a_sample_by_its_place_or_a_loop_is_refused():
    data = make()
    for ask in (lambda: data[0], lambda: data[:2], lambda: list(data), lambda: [x for x, _ in data], lambda: 3 in data):
        with pytest.raises(UsageError, match=r"found data\[\.\.\.\], or a loop(.|\n)*batch\(\[0, 1\]\)") as caught:
            ask()
        assert "test_dataset.py" in caught.value.at
    assert data.batch([0, 1])["label"].tolist() == [0, 1]
    assert len(data) == len(data.inputs["image"]) == 6


def test_digest_is_of_content_not_of_storage():
    big = make(inputs={"image": IMAGES.astype(">i4")}).digest()
    assert make(inputs={"image": IMAGES.astype("<i4")}).digest() == big
    assert make(inputs={"image": np.asfortranarray(IMAGES)}).digest() == make().digest()
    assert make(name="other").digest() == make().digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {"image": IMAGES + 1}},
        {"inputs": {"image": IMAGES.astype(np.int16)}},
        {"inputs": {"image": IMAGES.reshape(6, 4)}},
        {"inputs": {"x": IMAGES}},
        {"labels": {"label": LABELS[::-1]}},
        {"classes": ("a", "b", "d")},
        {"scale": 0.25},
    ],
)
def test_digest_sees_every_change(changes):
    assert make(**changes).digest() != make().digest()
