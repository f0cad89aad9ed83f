"""docs/models.md and listed.json, written from the models: `python -m onnxmx.models.reference docs/models.md`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from onnxmx.models import list_models, show_inputs

LISTED = Path(__file__).with_name("listed.json")

_HEAD = """\
# Models

Written by `python -m onnxmx.models.reference docs/models.md`; a test fails when it is stale.

A name goes wherever a command expects a model: `onnxmx train lenet --data mnist`, `onnxmx summary resnet50`. In Python
each is a build function with options, which its docstring explains:

```python
model = mx.models.build("resnet50", input=(3, 64, 64), classes=5)  # on its own inputs
model = mx.models.resnet50(classes=5).build(photo=("batch", 3, 64, 64))  # the layer, on yours
```

Inputs are float32 where no type stands beside them, and are shown without the batch. Parameters are those of the
default size, without the running statistics of batch normalization.

| name | what | input | parameters | source |
|---|---|---|--:|---|"""

_ARXIV = {
    "Banbury et al. 2021": "2106.07597",
    "Cho et al. 2014": "1406.1078",
    "Dai & Le 2015": "1511.01432",
    "Goodfellow et al. 2014": "1406.2661",
    "Graves 2013": "1308.0850",
    "He et al. 2016": "1512.03385",
    "He et al. 2016b": "1603.05027",
    "He et al. 2017": "1708.05031",
    "Howard et al. 2017": "1704.04861",
    "Huang et al. 2017": "1608.06993",
    "Iandola et al. 2016": "1602.07360",
    "Ioffe & Szegedy 2015": "1502.03167",
    "Kim 2014": "1408.5882",
    "Kingma & Welling 2014": "1312.6114",
    "Krizhevsky 2014": "1404.5997",
    "Luong et al. 2015": "1508.04025",
    "Radford et al. 2016": "1511.06434",
    "Ronneberger et al. 2015": "1505.04597",
    "Sandler et al. 2018": "1801.04381",
    "Simonyan & Zisserman 2015": "1409.1556",
    "Sutskever et al. 2014": "1409.3215",
    "Szegedy et al. 2016": "1512.00567",
    "Vaswani et al. 2017": "1706.03762",
}
"""The papers that are on arXiv, as the docstrings call them."""
# The longest names first: "He et al. 2016b" begins with another.
_PAPER = re.compile("|".join(re.escape(name) for name in sorted(_ARXIV, key=len, reverse=True)))


def render(listed: list[dict[str, Any]]) -> str:
    """The whole page, of what `list_models` gives."""
    rows = [
        f"| {row['name']} | {row['summary']} | {show_inputs(row['inputs'])} | {row['parameters']:,} "
        f"| {_PAPER.sub(_link, row['source'])} |"
        for row in listed
    ]
    return "\n".join([_HEAD, *rows, ""])


def _link(found: re.Match[str]) -> str:
    return f"[{found.group()}](https://arxiv.org/abs/{_ARXIV[found.group()]})"


def render_list(listed: list[dict[str, Any]]) -> str:
    """listed.json of the same, which `onnxmx models` reads: a model a line."""
    rows = [json.dumps({**row, "takes": show_inputs(row["inputs"])}) for row in listed]
    return "[\n" + ",\n".join(rows) + "\n]\n"


if __name__ == "__main__":
    models = list_models()
    Path(sys.argv[1]).write_text(render(models))
    LISTED.write_text(render_list(models))
