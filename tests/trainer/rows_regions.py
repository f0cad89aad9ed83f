"""Rows of the table of gradient rules: regions of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.trainer.rule_case import Case

# Inside, across the border, beyond it, and of no area.
REGIONS = np.array([[0.7, 1.1, 4.4, 5.2], [3.3, 2.6, 9.1, 8.2], [11.1, 12.4, 15.2, 13.3], [2.2, 2.3, 2.2, 2.3]])
IMAGES = [1, 0, 0, 1]


def align(rois: bool = True, **attributes: Any) -> Case:
    """rois: whether their corners are an input; where a region is empty they lie on a kink."""

    def make(g: Any, x: Any, *moved: Any) -> Any:
        regions = g.cast_like(REGIONS[: 3 if rois else 4], x)
        regions = g.add(regions, g.mul(moved[0], 0.05)) if moved else regions
        of = np.array(IMAGES[: 3 if rois else 4], np.int64)
        return g.op("RoiAlign", x, regions, of, output_height=2, output_width=3, **attributes)

    # onnx.reference counts in float32.
    shapes = ((2, 3, 6, 7), (3, 4)) if rois else ((2, 3, 6, 7),)
    return Case("RoiAlign", shapes, make=make, distinct=True, step=1e-2, label=f"{rois}{attributes}")


def pool(high: int, wide: int, scale: float) -> Case:
    regions = np.concatenate([np.array(IMAGES)[:, None], REGIONS], 1)[[0, 1, 3]].astype(np.float32)
    return Case("MaxRoiPool", ((2, 3, 6, 7),), distinct=True, step=0.01, label=f"{high}{wide}{scale}", make=lambda g, x:
        g.op("MaxRoiPool", x, regions, pooled_shape=[high, wide], spatial_scale=scale))  # fmt: skip


def deformed(*, parts: int = 1, bias: bool = True, mask: bool = True, **attributes: Any) -> Case:
    """Offsets of a third of a pixel and a little more, so that no tap lies on one."""
    group = attributes.get("group", 1)
    space = attributes.pop("space")

    def make(g: Any, x: Any, w: Any, offset: Any, *others: Any) -> Any:
        rest = list(others)
        b = rest.pop(0) if bias else None
        near = g.add(g.mul(offset, 0.05), 0.37)
        return g.op("DeformConv", x, w, near, b, *rest, offset_group=parts, **attributes)

    shapes = [(2, 4, 5, 6), (4, 4 // group, 3, 2), (2, parts * 12, *space)]
    shapes += [(4,)] * bias + [(2, parts * 6, *space)] * mask
    return Case("DeformConv", tuple(shapes), make=make, step=5e-3, label=f"{parts}{bias}{mask}{attributes}")


CASES = [
    *(align(rois, sampling_ratio=s, mode="avg", coordinate_transformation_mode=c, spatial_scale=0.9)
      for rois, s in ((True, 2), (False, 0)) for c in ("half_pixel", "output_half_pixel")),
    *(align(rois, sampling_ratio=1, mode="max") for rois in (False, True)),
    align(False, sampling_ratio=0, mode="max"),
    pool(2, 2, 1.0),
    pool(3, 1, 0.6),
    deformed(space=(3, 5)),
    deformed(space=(3, 3), group=2, pads=[1, 0, 2, 1], strides=[2, 2], bias=False),
    deformed(space=(5, 5), parts=2, dilations=[2, 1], pads=[2, 0, 2, 0], mask=False),
]  # fmt: skip
