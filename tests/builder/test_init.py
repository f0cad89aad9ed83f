"""Initializers: their statistics, and that a parameter depends on the seed and its name alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
import onnxmx.builder.layers as L
from onnxmx.builder import init
from onnxmx.errors import DataError, UsageError
from tests.builder.bad_input import Bad

Array = np.ndarray[Any, Any]
DENSE, CONV = (300, 200), (64, 32, 3, 3)


def near(found: float, expected: float, share: float = 0.03) -> bool:
    return abs(found - expected) <= share * abs(expected)


def uniform_within(limit: float) -> Callable[[Array], bool]:
    return lambda a: bool(near(a.var(), limit**2 / 3) and near(np.abs(a).max(), limit) and abs(a.mean()) < limit / 50)


def normal_of(std: float) -> Callable[[Array], bool]:
    # A normal draw passes three deviations 0.27 % of the time; a uniform one never.
    return lambda a: bool(near(a.std(), std) and 0.001 < (np.abs(a) > 3 * std).mean() < 0.005)


def truncated_at(limit: float) -> Callable[[Array], bool]:
    # Within two deviations the standard deviation is 0.8796 of the whole.
    return lambda a: bool(near(a.std(), 0.8796 * limit / 2) and 0.95 * limit < np.abs(a).max() <= limit)


def is_bilinear(a: Array) -> bool:
    """Of (out, in, 3, 3): the products of 1/2, 1, 1/2 where a channel meets itself, else 0."""
    row = np.array([0.5, 1, 0.5])
    return bool((a == np.eye(*a.shape[:2])[:, :, None, None] * np.outer(row, row)).all())


def is_orthogonal(a: Array) -> bool:
    flat = a.reshape(a.shape[0], -1)
    small = flat.T @ flat if flat.shape[0] > flat.shape[1] else flat @ flat.T
    return np.allclose(small, np.eye(len(small)), atol=1e-5)


# By name: what must hold of a (300, 200) matrix and of a (64, 32, 3, 3) kernel, whose fans are 288 and 576.
CHECKS: dict[str, tuple[Callable[[Array], bool], Callable[[Array], bool]]] = {
    "zeros": (lambda a: not a.any(), lambda a: not a.any()),
    "ones": (lambda a: bool((a == 1).all()), lambda a: bool((a == 1).all())),
    "uniform": (uniform_within(0.07), uniform_within(0.07)),
    "normal": (normal_of(0.01), normal_of(0.01)),
    "truncated_normal": (truncated_at(0.02), truncated_at(0.02)),
    "xavier": (uniform_within(math.sqrt(6 / 500)), uniform_within(math.sqrt(6 / (288 + 576)))),
    "he": (normal_of(math.sqrt(2 / 300)), normal_of(math.sqrt(2 / 288))),
    "msra": (normal_of(math.sqrt(2 / 300)), normal_of(math.sqrt(2 / 288))),
    "orthogonal": (is_orthogonal, is_orthogonal),
    "bilinear": (lambda a: bool((a == np.eye(*DENSE)).all()), is_bilinear),
}


def test_every_initializer_has_a_check() -> None:
    assert set(CHECKS) == set(init.NAMED) - {"forget_bias"}  # of no other shape than an LSTM's bias; see there


@pytest.mark.parametrize("name", CHECKS)
def test_statistics(name: str) -> None:
    for check, shape in zip(CHECKS[name], (DENSE, CONV), strict=True):
        array = init.get(name)(shape, np.random.default_rng(3))
        assert array.shape == shape
        assert check(array)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("shape", [(), (5,), (1, 4), (4, 1)], ids=str)
def test_small_shapes(name: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(init.get(name)(shape, np.random.default_rng(3)))
    assert array.shape == shape
    assert np.isfinite(array).all()


def test_parameters_of_initializers() -> None:
    random = np.random.default_rng(1)
    assert (init.constant(0.5)((3,), random) == 0.5).all()
    assert normal_of(math.sqrt(2 / (1.25 * 300)))(init.he(slope=0.5)(DENSE, random))
    assert is_orthogonal(init.orthogonal(gain=3.0)(DENSE, random) / 3)
    assert uniform_within(0.5)(init.uniform(0.5)(DENSE, random))
    assert normal_of(2.0)(init.normal(2.0)(DENSE, random))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: init.normal("a"), "init.normal expected std as a finite number of at least 0; found 'a'"),  # type: ignore[arg-type]
        (lambda: init.truncated_normal(-1.0), "truncated_normal expected std as .* at least 0; found -1"),
        (lambda: init.uniform(math.nan), "uniform expected scale as a finite number of at least 0; found nan"),
        (lambda: init.constant(None), "constant expected value as a number; found None"),  # type: ignore[arg-type]
        (lambda: init.he(math.inf), "he expected slope as a finite number; found inf"),
        (lambda: init.orthogonal(True), "orthogonal expected gain as a finite number; found True"),
        (lambda: init.forget_bias([1]), r"forget_bias expected value as a finite number; found \[1\]"),  # type: ignore[arg-type]
        (lambda: init.array("a"), "init.array expected an array of numbers; found str"),
        (lambda: init.array([[1, 2], [3]]), "init.array expected an array of numbers; found list"),
    ],
)
def test_what_no_numbers_are_drawn_by(make: Callable[[], Any], says: str) -> None:
    Bad(make, UsageError, says).provoke()
    assert init.constant(-math.inf)((1,), np.random.default_rng(0)) == -math.inf


def test_a_factory_that_was_not_called_is_called() -> None:
    a, b = (get((3, 3), np.random.default_rng(1)) for get in (init.get(init.xavier), init.xavier()))  # type: ignore[arg-type]
    assert (a == b).all()
    with pytest.raises(UsageError, match="found 3"):
        init.get(3)  # type: ignore[arg-type]


def test_parameters_depend_on_seed_and_name_alone() -> None:
    def net(*extra: L.Layer) -> L.Sequential:
        return L.Sequential(*extra, L.Dense(4, name="a"), L.Dense(4, name="b"))

    one = net().build(x=("batch", 4)).parameters()
    again = net().build(x=("batch", 4)).parameters()
    other_order = L.Sequential(L.Dense(4, name="b"), L.Dense(4, name="a")).build(x=("batch", 4)).parameters()
    longer = net(L.Dense(4, name="first")).build(x=("batch", 4)).parameters()
    seeded = net().build(seed=1, x=("batch", 4)).parameters()
    for name in ("a.weight", "b.weight"):
        assert (one[name] == again[name]).all()
        assert (one[name] == other_order[name]).all()
        assert (one[name] == longer[name]).all()
        assert (one[name] != seeded[name]).all()
    assert (one["a.weight"] != one["b.weight"]).all()
    assert one["a.weight"].dtype == np.float32


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bilinear_kernels_enlarge(scale: int) -> None:
    """A linear ramp, enlarged, is a linear ramp of a smaller slope, away from the borders."""
    kernel, padding = 2 * scale - scale % 2, scale // 2
    up = L.Conv2DTranspose(
        3, kernel, stride=scale, padding=padding, groups=3, bias=False, weight_init="bilinear"
    ).build(x=("batch", 3, 5, 5))
    x = np.broadcast_to(np.arange(5.0, dtype=np.float32), (1, 3, 5, 5))
    y = up(x)[..., scale:-scale, scale:-scale]
    np.testing.assert_allclose(np.diff(y, axis=-1), 1 / scale, rtol=1e-5)
    np.testing.assert_allclose(np.diff(y, axis=-2), 0, atol=1e-5)


def test_numbers_from_an_array_and_a_file(tmp_path: Path) -> None:
    weight = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "w.npy", weight)
    for one in (init.array(weight), init.array(weight.tolist()), init.file(tmp_path / "w.npy")):
        found = L.Dense(3, weight_init=one, bias_init=init.array([1, 2, 3])).build(x=("batch", 2)).parameters()
        np.testing.assert_array_equal(found["weight"], weight)
        assert found["bias"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("content", [None, b"no array", b""])
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"expected a \.npy file; '.*w\.npy' cannot be read") as caught:
        init.file(path)
    assert caught.value.at is not None
    assert "test_init.py" in caught.value.at


def test_a_file_of_several_or_of_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "several.npz", a=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name in ("several.npz", "objects.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            init.file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("glorot_uniform", "xavier"),
        ("kaiming_normal_", "he"),
        ("RandomNormal", "normal"),
        ("random_uniform", "uniform"),
        ("xaviar", "xavier"),
    ],
)
def test_what_other_libraries_call_it(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"no initializer named '{name}'\n  Did you mean '{near}'"):
        init.get(name)


def test_every_name_is_a_function_of_the_namespace() -> None:
    assert {factory: getattr(mx.init, factory) for factory in init.NAMED} == init.NAMED
