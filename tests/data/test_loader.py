"""Order, resumption, and the thread behind it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from onnxmx.errors import DataError, UsageError
from onnxmx.trainer.data import Dataset, Loader

N = 103
DATA = Dataset.from_arrays(np.arange(N, dtype=np.float32)[:, None], np.arange(N))


def order(loader: Loader, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch["label"].tolist() for _, batch in loader.epoch(epoch, start)]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "onnxmx-loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
@pytest.mark.parametrize(
    ("size", "drop_last", "batches"), [(10, False, 11), (10, True, 10), (103, True, 1), (1, False, 103)]
)
def test_an_epoch_holds_every_sample_once(prefetch, size, drop_last, batches):
    loader = Loader(DATA, size, seed=1, drop_last=drop_last, prefetch=prefetch)
    found = list(loader.epoch(0))
    assert [index for index, _ in found] == list(range(batches))
    assert len(loader) == batches
    samples = np.concatenate([batch["label"] for _, batch in found])
    assert len(set(samples.tolist())) == len(samples) == (size * batches if drop_last else N)
    for index, batch in found:
        np.testing.assert_array_equal(batch["x"][:, 0], batch["label"])  # Inputs and labels stay together.
        np.testing.assert_array_equal(loader.indices(0, index), batch["label"])


def test_the_order_depends_on_seed_and_epoch_alone():
    one, again, other = Loader(DATA, 10, seed=1), Loader(DATA, 10, seed=1, prefetch=0), Loader(DATA, 10, seed=2)
    later = order(one, 5)
    assert order(one, 0) == order(again, 0)
    assert order(again, 5) == later  # Whatever was asked before.
    assert order(one, 0) != order(one, 1)
    assert order(one, 0) != order(other, 0)
    assert order(one, 1) != order(Loader(DATA, 10, seed=0), 2)


def test_the_order_is_the_same_for_ever():
    """A resumed run must meet the same batches on another machine and another NumPy."""
    assert Loader(DATA, 8, seed=7).indices(3, 0).tolist() == [65, 72, 2, 23, 62, 34, 102, 18]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_resumes_at_any_batch(prefetch, shuffle):
    loader = Loader(DATA, 10, seed=3, shuffle=shuffle, prefetch=prefetch)
    whole = order(loader, 4)
    for start in range(len(loader) + 1):
        fresh = Loader(DATA, 10, seed=3, shuffle=shuffle, prefetch=prefetch)
        assert order(fresh, 4, start) == whole[start:]
    assert next(loader.epoch(4, 7))[0] == 7


def test_without_shuffle_the_order_is_the_dataset_s():
    found = [sample for batch in order(Loader(DATA, 10, shuffle=False), 9) for sample in batch]
    assert found == list(range(N))


def test_a_resumed_epoch_makes_no_batch_before_its_start(monkeypatch):
    made = []
    monkeypatch.setattr(Loader, "indices", lambda self, epoch, batch: made.append(batch) or np.array([0]))
    list(Loader(DATA, 10).epoch(0, 9))
    assert made == [9, 10]


class Watched(Dataset):
    """Counts the batches it makes."""

    made = 0

    def begin(self):
        """Before each batch."""

    def batch(self, indices):
        self.begin()
        type(self).made += 1
        return super().batch(indices)


@pytest.fixture
def watched():
    Watched.made = 0
    return Watched(name="watched", split="train", inputs=DATA.inputs, labels=DATA.labels)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_the_thread_runs_ahead_but_not_far(watched, prefetch):
    with closing(Loader(watched, 5, prefetch=prefetch).epoch(0)) as batches:
        for taken in range(1, 9):
            next(batches)
            deadline = time.monotonic() + 5
            while Watched.made <= taken + prefetch // 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            # It sleeps at `prefetch` batches that wait, until no more than half of them do.
            assert taken + prefetch // 2 < Watched.made <= taken + prefetch


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_as_many_batches_are_kept_ready_as_was_asked(watched, monkeypatch, prefetch):
    taken = threading.Event()
    monkeypatch.setattr(Watched, "begin", lambda self: Watched.made == 0 or taken.wait(5))
    with closing(Loader(watched, 5, prefetch=prefetch).epoch(0)) as batches:
        next(batches)
        taken.set()
        deadline = time.monotonic() + 5
        while Watched.made < 1 + prefetch and time.monotonic() < deadline:
            time.sleep(0.001)
        assert Watched.made == 1 + prefetch


def test_the_thread_wakes_up_for_half_of_its_batches(monkeypatch):
    woken = []

    class Counted(threading.Condition):
        def notify(self, n=1):
            woken.append(n)
            super().notify(n)

    monkeypatch.setattr(threading, "Condition", Counted)
    for _ in Loader(DATA, 2, prefetch=16).epoch(0):
        time.sleep(0.001)  # a step takes longer than a batch
    assert len(woken) < 30  # of 52 batches


LOADER = "onnxmx-loader"


@pytest.fixture
def restless(monkeypatch):
    """How often each thread waited and woke another, by name.

    Each wait ends soon though nothing changed, as Python allows it and as one ends that was meant for a state since
    past: who wakes up has to look again.
    """
    seen = {"wait": Counter(), "notify": Counter()}
    plain = threading.Condition

    class Restless(plain):
        def wait(self, timeout=None):
            seen["wait"][threading.current_thread().name] += 1
            return super().wait(0.001)

        def notify(self, n=1):
            seen["notify"][threading.current_thread().name] += 1
            super().notify(n)

    # With a lock it is one of Python's own, of a threading.Event.
    monkeypatch.setattr(threading, "Condition", lambda lock=None: plain(lock) if lock else Restless())
    return seen


def until(holds):
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.0005)
    assert holds()


def test_who_finds_no_batch_looks_again(watched, monkeypatch, restless):
    waited = restless["wait"]
    here = threading.current_thread().name

    def begin(self):
        if Watched.made < 3:
            until(lambda: waited[here] >= 3 * (Watched.made + 1))

    monkeypatch.setattr(Watched, "begin", begin)
    with closing(Loader(watched, 5, prefetch=2).epoch(0)) as batches:
        assert [next(batches)[0] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("prefetch", [1, 8])
def test_the_thread_sleeps_until_half_is_gone_however_often_it_wakes(watched, monkeypatch, restless, prefetch):
    waited, taken = restless["wait"], threading.Event()
    monkeypatch.setattr(Watched, "begin", lambda self: Watched.made == 0 or taken.wait(5))
    with closing(Loader(watched, 5, prefetch=prefetch).epoch(0)) as batches:
        next(batches)
        taken.set()
        for ready in range(prefetch, prefetch // 2, -1):
            until(lambda: Watched.made == 1 + prefetch)
            looked = waited[LOADER]
            until(lambda looked=looked: waited[LOADER] >= looked + 3)
            assert Watched.made == 1 + prefetch, f"it made one though {ready} were ready"
            next(batches)
        until(lambda: Watched.made == 1 + prefetch + (prefetch - prefetch // 2))


def test_who_waits_for_each_batch_wakes_nobody(watched, monkeypatch, restless):
    """The thread is awake where it is the slower one."""
    gate = threading.Semaphore(0)
    monkeypatch.setattr(Watched, "begin", lambda self: gate.acquire(timeout=5))
    with closing(Loader(watched, 5, prefetch=8).epoch(0)) as batches:
        for _ in range(10):
            gate.release()
            next(batches)
        assert restless["notify"][threading.current_thread().name] == 0
        gate.release(20)


def test_as_many_batches_wait_as_memory_allows():
    image = np.zeros((40, 3, 512, 512), np.uint8)  # 3 MB a sample once it is float32
    large = Dataset.from_arrays({"image": image}, np.zeros(40, np.int64))
    assert [Loader(DATA, 5).prefetch, Loader(large, 2).prefetch, Loader(large, 20).prefetch] == [16, 5, 2]


@pytest.mark.parametrize("prefetch", [1, 2, 50])
@pytest.mark.parametrize("taken", [1, 2, 20, 21])
def test_stopping_early_ends_the_thread_at_once(watched, prefetch, taken):
    for _ in range(20):  # Each time the thread is caught somewhere else.
        Watched.made = 0
        batches = Loader(watched, 5, prefetch=prefetch).epoch(0)
        for _ in range(taken):
            next(batches)
        start = time.perf_counter()
        batches.close()
        assert time.perf_counter() - start < 1
        assert threads() == []
        assert Watched.made <= taken + prefetch + 1  # it does not go on to the end of the epoch


def test_an_exception_in_the_consumer_ends_the_thread():
    def consume() -> None:
        for index, _ in Loader(DATA, 5).epoch(0):
            1 / (index - 3)

    with pytest.raises(ZeroDivisionError) as caught:
        consume()
    del caught  # The traceback holds the iterator; without it the iterator is gone and has closed itself.
    assert threads() == []


@pytest.mark.parametrize("error", [DataError("sample 7 is damaged"), SystemExit("sample 7 is damaged")], ids=repr)
@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_what_fails_in_the_thread_is_raised_here_after_the_good_batches(watched, monkeypatch, prefetch, error):
    def begin(self):
        if Watched.made == 4:
            raise error

    monkeypatch.setattr(Watched, "begin", begin)
    batches = Loader(watched, 5, prefetch=prefetch).epoch(0)
    assert [next(batches)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(type(error), match="sample 7 is damaged"):
        next(batches)


def test_a_forgotten_iterator_may_be_collected_by_its_own_thread(watched, monkeypatch):
    forgotten = threading.Event()

    monkeypatch.setattr(Watched, "begin", lambda self: Watched.made == 20 and forgotten.wait(5) and gc.collect())
    gc.disable()
    try:
        batches = Loader(watched, 5, prefetch=50).epoch(0)
        next(batches)
        keep = [batches]
        keep.append(keep)  # a cycle, which only the garbage collector can free
        (thread,) = threads()
        del batches, keep
        forgotten.set()
        thread.join(5)
    finally:
        gc.enable()


def test_a_forgotten_iterator_does_not_keep_the_process_alive():
    code = """if True:
        import numpy as np
        from onnxmx.trainer.data import Dataset, Loader
        batches = Loader(Dataset.from_arrays(np.zeros((100, 1))), 2).epoch(0)
        next(batches)
        keep = [batches]; keep.append(keep)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"seed": -1}, {"seed": 2**64}, {"prefetch": -1}])
def test_refuses_values_outside_their_range(arguments):
    with pytest.raises(UsageError, match=f"Loader expected {next(iter(arguments))}"):
        Loader(DATA, **({"batch_size": 5} | arguments))


def test_refuses_an_epoch_of_no_batches():
    with pytest.raises(DataError, match="at least one full batch of 104; found 103"):
        Loader(DATA, 104, drop_last=True)


@pytest.mark.parametrize("call", [(-1, 0), (0, -1), (0, 12)])
def test_refuses_a_batch_that_does_not_exist(call):
    with pytest.raises(UsageError, match="Loader expected"):
        Loader(DATA, 10).epoch(*call)  # At once, not at the first batch.
    with pytest.raises(UsageError, match="Loader expected a batch"):
        Loader(DATA, 10).indices(0, 11)


def test_a_loop_over_no_epoch_is_refused():
    with pytest.raises(UsageError, match=r"Write for index, batch in loader\.epoch\(0\)") as caught:
        for _ in Loader(DATA, 10):
            pass
    assert "test_loader.py" in caught.value.at


def test_a_batch_of_images_is_cheap_to_make():
    images = np.zeros((6000, 1, 28, 28), dtype=np.uint8)
    loader = Loader(Dataset.from_arrays(images, np.zeros(6000, dtype=np.int64), scale=1 / 255), 64, prefetch=0)
    times, last = [], time.perf_counter()
    for _ in loader.epoch(0):
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
    assert np.median(times) < 0.3e-3  # 0.02 ms on a quiet machine.
