"""One epoch of LeNet on MNIST in PyTorch, as its own users would write it for speed: tensors in memory, fused Adam.

    python torch_epoch.py MNIST_DIR THREADS

Prints the seconds of the training loop and the test accuracy as JSON.
"""

import gzip
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch_nets


def read(folder, name, offset):
    data = gzip.decompress((Path(folder) / f"{name}.gz").read_bytes())
    return np.frombuffer(data, np.uint8, offset=offset)


def load(folder, split):
    images = read(folder, f"{split}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = read(folder, f"{split}-labels-idx1-ubyte", 8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def rate(step, total, warmup):
    """The schedule of `onnxmx train`: linear warm-up, then half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup - 1, 1)))


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    images, labels = load(folder, "train")
    model = torch_nets.make("lenet")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order, size = torch.randperm(len(images)), 64
    total = -(-len(images) // size)
    start = time.perf_counter()
    for index in range(total):
        chosen = order[index * size : (index + 1) * size]
        optimizer.param_groups[0]["lr"] = 1e-3 * rate(index, total, total // 20)
        optimizer.zero_grad(set_to_none=True)
        output = model(images[chosen].float() / 255)
        loss = torch.nn.functional.cross_entropy(output, labels[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    images, labels = load(folder, "t10k")
    with torch.no_grad():
        chosen = torch.cat([model(part.float() / 255).argmax(1) for part in images.split(256)])
    right = (chosen == labels).sum().item()
    print(json.dumps({"train_s": seconds, "accuracy": right / len(labels)}))


main()
