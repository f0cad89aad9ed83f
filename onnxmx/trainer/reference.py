"""docs/losses.md, written from losses and metrics themselves: `python -m onnxmx.trainer.reference docs/losses.md`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmx.trainer.losses import LOSSES
from onnxmx.trainer.metrics import METRICS
from onnxmx.trainer.mixing import MIXES

_HEAD = """\
# Losses and metrics

Written by `python -m onnxmx.trainer.reference docs/losses.md`; a test fails when it is stale.

```python
mx.fit(model, data, loss="huber:delta=0.5")                       # a name and options, as --loss takes them
mx.fit(model, data, loss=mx.losses.SoftmaxCrossEntropy(smoothing=0.1, ignore_index=255))
mx.fit(model, data, loss={"digit": "softmax_cross_entropy", "odd": mx.losses.SigmoidBCE(weight=0.3)},
       measure={"odd": ["auc", "f_beta"]})                        # by output; labels have the outputs' names
mx.fit(model, data, loss=lambda output, label: (output - label) ** 4.0)   # a function of graph values
```

On the command line several losses are `--loss "digit=softmax_cross_entropy odd=sigmoid_bce:weight=0.3"`, their metrics
`--measure odd=auc --measure odd=f_beta`, and a function of one's own is `--loss path.py:function`. Such a function gets
the output and the label, or, by the names of its parameters, any outputs and labels; it returns a value for each sample
or element, or a mean. A model's file names the loss that it was trained with, and `evaluate` and `quantize` measure by
it; a function has to be given again.

```python
def pinball(output, label):                      # a loss: the 0.9 quantile.   output, label: (batch, 1)
    error = label - output
    return output.builder.max(0.9 * error, -0.1 * error)

def covered(output, label):                      # a metric: the share of labels below it
    return output.builder.cast(label <= output, "float32")

mx.fit(model, data, loss=pinball, measure=["mae", covered])
```

What a function makes of (batch, 1) and (batch,) would be (batch, batch), every output beside every label: that is
refused. The first metric tells the best epoch; a function does so where it says which is better, as in
`measure=[mx.metrics.OwnMetric(function=covered, larger=True)]`, else the loss does.

Each loss is a function of `ai.onnxmx` in the step, with its equation in its documentation. Every loss takes `weight`,
its share in a sum. Values and gradients are PyTorch's within 1e-5 (`tests/trainer/loss_references.py`), a metric over
several batches is scikit-learn's over all samples at once (`tests/trainer/metric_references.py`).

Classes are on the last axis of (batch, classes) and (batch, time, classes), and on axis 1 of images. The outputs are
logits: a Softmax or Sigmoid at a model's end is passed by in training.
"""

_MIX = """\
## Mixing samples

`mx.fit(model, data, mix=mx.Mixup(0.2))`, or `mix = "cutmix"` in config.toml. What is drawn is a function of seed and
step. Metrics of training see a sample's own label; a finished model knows nothing of it.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD, "## Losses\n", *(_section(name, kind, kind.takes) for name, kind in LOSSES.items())]
    parts += ["## Metrics\n", *(_section(name, kind) for name, kind in METRICS.items()), _MIX]
    parts += [_section(name, kind) for name, kind in MIXES.items()]
    return "\n".join(parts)


def _section(name: str, kind: Any, takes: str = "") -> str:
    lines = [f"### {name}\n", f"`{kind.__name__}({', '.join(_options(kind))})`\n"]
    lines += [f"```text\n{inspect.cleandoc(kind.__doc__ or '')}\n```\n"]
    lines += [f"Labels: {takes}.\n"] if takes else []
    return "\n".join(lines)


def _options(kind: Any) -> Iterable[str]:
    """The options with their defaults, without those that all have."""
    fields: Mapping[str, Any] = {f.name: f for f in dataclasses.fields(kind) if f.name not in ("weight", "name")}
    return (f"{name}={field.default!r}" for name, field in fields.items())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
