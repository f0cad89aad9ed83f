"""The training step of onnxmx: a step graph on stock ONNX Runtime."""

import onnxmx_nets
from worker import SHAPES, batch, serve


def make_step(net, threads):
    import onnxmx as mx
    from onnxmx.trainer.engine import OrtEngine
    from onnxmx.trainer.step import initial_state

    images, labels = batch(SHAPES[net])
    model = onnxmx_nets.make(net, SHAPES[net]).build(image=("batch", *SHAPES[net]))
    optimizer = mx.Adam(lr=1e-3)
    step = mx.compile_step(
        model, loss="softmax_cross_entropy", optimizer=optimizer, clip=mx.clip_global_norm(1.0), measure=()
    )
    engine = OrtEngine(step, initial_state(model, optimizer, seed=0), threads=threads)
    return lambda: engine.step({"image": images, "label": labels})


if __name__ == "__main__":
    serve(make_step)
