"""Writes `schedule_oracle.json`: the rates of torch's schedulers over 40 updates.

    /path/to/torch/bin/python tests/trainer/schedule_oracle.py tests/trainer/schedule_oracle.json

It needs numpy and torch alone; the tests read what it wrote.
"""

import json
import sys
from pathlib import Path

STEPS = 40
LOSSES = [1.0 / (1 + t) if t < 8 else 0.125 + 0.01 * ((t * 7) % 5) for t in range(STEPS)]
"""A loss that falls and then no longer does, for the plateau."""


def main(path):
    import torch

    s = torch.optim.lr_scheduler
    rows = {
        "step": lambda o: s.StepLR(o, 7, 0.5),
        "multi_step": lambda o: s.MultiStepLR(o, [5, 6, 21], 0.3),
        "exponential": lambda o: s.ExponentialLR(o, 0.9),
        "linear": lambda o: s.LinearLR(o, 1.0, 0.2, total_iters=39),
        "polynomial": lambda o: s.PolynomialLR(o, total_iters=39, power=1.7),
        "cosine": lambda o: s.CosineAnnealingLR(o, 39, eta_min=0.05),
        "cosine_restarts": lambda o: s.CosineAnnealingWarmRestarts(o, 9, 1, eta_min=0.05),
        "cosine_restarts, longer": lambda o: s.CosineAnnealingWarmRestarts(o, 5, 2),
        "one_cycle": lambda o: s.OneCycleLR(o, 0.5, total_steps=40, cycle_momentum=False),
        "one_cycle, other": lambda o: s.OneCycleLR(
            o, 0.5, total_steps=40, pct_start=0.6, div_factor=5, final_div_factor=10, cycle_momentum=False
        ),
        "cyclic": lambda o: s.CyclicLR(o, 0.1, 0.5, 4, 7, cycle_momentum=False),
        "cyclic, halved": lambda o: s.CyclicLR(o, 0.1, 0.5, 5, mode="triangular2", cycle_momentum=False),
        "cyclic, exponential": lambda o: s.CyclicLR(o, 0.1, 0.5, 5, mode="exp_range", gamma=0.9, cycle_momentum=False),
        "plateau": lambda o: s.ReduceLROnPlateau(o, factor=0.5, patience=2, threshold=0.01, min_lr=0.07),
    }
    lines = []
    for row, make in rows.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        scheduler, rates = make(optimizer), []
        for t in range(STEPS):
            rates.append(float(f"{optimizer.param_groups[0]['lr']:.9g}"))
            optimizer.step()
            scheduler.step(*([LOSSES[t]] if row == "plateau" else []))
        lines.append(f"{json.dumps(row)}: {json.dumps({'by': f'torch {torch.__version__}', 'rates': rates})}")
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
