"""A DCGAN makes digits, and a LeNet says how many of them it is sure of.

python examples/dcgan_mnist.py runs/lenet-mnist/last.onnx [DATA_DIR] [--epochs 6] [--out runs/dcgan-mnist]
"""

from __future__ import annotations

import argparse

import onnxmx as mx


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("classifier")
    options.add_argument("data_dir", nargs="?")
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--samples", type=int, default=1000)
    options.add_argument("--out", default="runs/dcgan-mnist")
    given = options.parse_args()
    data = mx.gan.centred(mx.data.mnist("train", given.data_dir))
    run = mx.fit_gan(
        mx.models.build("dcgan_generator", output=(1, 28, 28), width=given.width),
        mx.models.build("dcgan_discriminator", input=(1, 28, 28), width=given.width),
        data,
        epochs=given.epochs,
        smoothing=0.1,
        optimizer=mx.Adam(mx.Cosine(1e-3, floor=1e-5), beta1=0.5),
        average=mx.EMA(0.998),
        threads=1,
        out=given.out,
        overwrite=True,
    )
    found = mx.gan.judge(run.model, mx.load(given.classifier), samples=given.samples)
    print(f"sure of more than 0.9  {found['confident']:.3f} of {given.samples} samples")
    print(f"of each digit          {' '.join(map(str, found['classes']))}")


if __name__ == "__main__":
    main()
