"""What every benchmark worker does: make a step once, then time as many as it is told to.

A worker is a process of its own, so that each peer runs in its own environment. On stdin it reads a number of steps a
line, on stdout it writes their times in milliseconds as a JSON list. Between lines it is idle. The first two steps of a
turn are not counted: threads of the contender before may still wait for work in a loop, which takes a core from them.
"""

import json
import sys
import time


def serve(make_step):
    """make_step(net, threads) -> a function that runs one training step to its end."""
    net, threads = sys.argv[1], int(sys.argv[2])
    step = make_step(net, threads)
    for _ in range(10):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(2):
            step()
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(times), flush=True)


def batch(shape, size=64, classes=10):
    """The same numbers for every peer: images in [0, 1) and labels."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.random((size, *shape), dtype=np.float32), random.integers(0, classes, size)


SHAPES = {
    "mlp": (1, 28, 28),
    "cnn": (1, 28, 28),
    "lenet": (1, 28, 28),
    "lstm": (28, 28),
    "resnet8": (3, 32, 32),
}
"""The nets and what they take: one sample, channels first, or times by features."""
