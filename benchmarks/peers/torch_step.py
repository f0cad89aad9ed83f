"""The training step of PyTorch with fused Adam: eager, or with `compiled` as the third argument by torch.compile."""

import sys

import torch
import torch_nets
from worker import SHAPES, batch, serve


def make_step(net, threads):
    torch.set_num_threads(threads)
    model = torch_nets.make(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images, labels = (torch.from_numpy(a) for a in batch(SHAPES[net]))
    forward = torch.compile(model) if sys.argv[3:] == ["compiled"] else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    serve(make_step)
