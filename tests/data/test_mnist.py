"""The real MNIST files, wherever they lie."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from onnxmx.errors import DataError, UsageError
from onnxmx.trainer.data import list_datasets, mnist

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")

real = pytest.mark.skipif(not REAL.is_dir(), reason="the MNIST files are not at ../shared/data/mnist")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No test sees the user's own data or cache, or the internet."""
    monkeypatch.delenv("ONNXMX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ONNXMX_MIRROR", "http://127.0.0.1:1/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def available() -> bool:
    return next(info.available for info in list_datasets() if info.name == "mnist")


@real
@pytest.mark.parametrize(("split", "n", "first", "mean"), [("train", 60_000, 5, 0.1307), ("test", 10_000, 7, 0.1325)])
def test_the_real_files(split, n, first, mean):
    ds = mnist(split, REAL)
    assert len(ds) == n
    assert ds.inputs["image"].shape == (n, 1, 28, 28)
    assert ds.inputs["image"].dtype == np.uint8
    assert ds.labels["label"].dtype == np.int64
    assert ds.labels["label"][0] == first
    assert ds.classes == tuple("0123456789")
    batch = ds.batch(slice(5000))
    assert (batch["image"].min(), batch["image"].max()) == (0, 1)
    assert ds.inputs["image"].mean() / 255 == pytest.approx(mean, abs=1e-4)


@real
def test_loading_is_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        mnist("train", REAL)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # 0.15 s on a quiet two-core machine.


@real
@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("plain", [False, True])
def test_found_in_the_data_dir_and_its_folder_packed_or_plain(tmp_path, folder, plain):
    (tmp_path / folder).mkdir(exist_ok=True)
    for file in TEST_FILES:
        packed = (REAL / file).read_bytes()
        target = tmp_path / folder / (file.removesuffix(".gz") if plain else file)
        target.write_bytes(gzip.decompress(packed) if plain else packed)
    assert mnist("test", tmp_path).digest() == mnist("test", REAL).digest()
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        mnist("train", tmp_path)


@real
@pytest.mark.parametrize("root", [REAL, REAL.parent])
def test_found_through_the_environment(monkeypatch, root):
    assert not available()
    monkeypatch.setenv("ONNXMX_DATA", str(root))
    assert available()
    assert len(mnist("test")) == 10_000


@real
def test_downloaded_into_the_cache_once(tmp_path, mirror, monkeypatch):
    mirror.files = {f"/sub/{file}": (REAL / file).read_bytes() for file in TEST_FILES}
    monkeypatch.setenv("ONNXMX_MIRROR", f"http://127.0.0.1:1/ {mirror.url}/sub/")
    assert mnist("test").digest() == mnist("test", REAL).digest()
    assert sorted(path.name for path in (tmp_path / "cache/onnxmx/mnist").iterdir()) == sorted(TEST_FILES)
    assert len(mnist("test")) == 10_000
    assert len(mirror.ranges) == 2


@real
def test_an_altered_file_is_named_with_both_digests(tmp_path):
    for file in TEST_FILES:
        (tmp_path / file).write_bytes((REAL / file).read_bytes())
    labels = bytearray(gzip.decompress((tmp_path / TEST_FILES[1]).read_bytes()))
    labels[100] = (labels[100] + 1) % 10  # Still a perfect IDX file.
    (tmp_path / TEST_FILES[1]).write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match=r"t10k-labels.*SHA-256 ff7bcfd4[0-9a-f]{56}; found (?!ff7bcfd4)[0-9a-f]{64}"):
        mnist("test", tmp_path)


@real
def test_a_truncated_file_is_named(tmp_path):
    for file in TEST_FILES:
        (tmp_path / file).write_bytes((REAL / file).read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"t10k-images.*expected a whole gzip file"):
        mnist("test", tmp_path)


def test_a_data_dir_without_the_files_is_an_error_not_a_download(tmp_path, mirror, monkeypatch):
    monkeypatch.setenv("ONNXMX_MIRROR", mirror.url)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train-images-idx3-ubyte").write_bytes(b"")
    monkeypatch.setenv("ONNXMX_DATA", str(tmp_path / "other"))  # Not asked either.
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match=f"train-images-idx3-ubyte.* in {folder}"):
            mnist("train", folder)
    assert mirror.ranges == []


def test_no_mirror_answers():
    with pytest.raises(DataError, match=r"http://127.0.0.1:1/train-images-idx3-ubyte.gz: .*refused"):
        mnist("train")


def test_an_unknown_split():
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        mnist("trian")
