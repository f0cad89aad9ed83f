"""The training step of MXNet 1.9.1: Gluon, hybridized, static memory and shapes."""

import mxnet as mx
from mxnet import autograd, gluon
from mxnet.gluon import nn
from worker import SHAPES, batch, serve


class LastOfLSTM(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.lstm = gluon.rnn.LSTM(128, layout="NTC", input_size=28)
        self.head = nn.Dense(10)

    def hybrid_forward(self, F, x):
        return self.head(F.slice_axis(self.lstm(x), axis=1, begin=-1, end=None))


class Block(gluon.HybridBlock):
    def __init__(self, channels, stride, same):
        super().__init__()
        self.body = chain(
            nn.Conv2D(channels, 3, stride, 1, use_bias=False),
            nn.BatchNorm(),
            nn.Activation("relu"),
            nn.Conv2D(channels, 3, 1, 1, use_bias=False),
            nn.BatchNorm(),
        )
        self.shortcut = None if same else chain(nn.Conv2D(channels, 1, stride, use_bias=False), nn.BatchNorm())

    def hybrid_forward(self, F, x):
        return F.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))


def chain(*layers):
    block = nn.HybridSequential()
    block.add(*layers)
    return block


def make(net):
    if net == "mlp":
        return chain(nn.Dense(256, "relu"), nn.Dense(256, "relu"), nn.Dense(10))
    if net == "cnn":
        return chain(
            *(nn.Conv2D(16, 3, padding=1, activation="relu"), nn.MaxPool2D(2)),
            *(nn.Conv2D(32, 3, padding=1, activation="relu"), nn.MaxPool2D(2)),
            nn.Dense(10),
        )
    if net == "lenet":
        return chain(
            *(nn.Conv2D(20, 5, activation="relu"), nn.MaxPool2D(2)),
            *(nn.Conv2D(50, 5, activation="relu"), nn.MaxPool2D(2)),
            *(nn.Dense(500, "relu"), nn.Dense(10)),
        )
    if net == "lstm":
        return LastOfLSTM()
    stem = (nn.Conv2D(16, 3, 1, 1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
    blocks = (Block(16, 1, True), Block(32, 2, False), Block(64, 2, False))
    return chain(*stem, *blocks, nn.GlobalAvgPool2D(), nn.Dense(10))


def make_step(net, threads):  # the threads come by OMP_NUM_THREADS
    model = make(net)
    model.initialize(mx.init.Xavier())
    model.hybridize(static_alloc=True, static_shape=True)
    images, labels = (mx.nd.array(a, dtype=a.dtype) for a in batch(SHAPES[net]))
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    model(images)
    parameters = [p for p in model.collect_params().values() if p.grad_req != "null"]
    trainer = gluon.Trainer(parameters, "adam", {"learning_rate": 1e-3})

    def step():
        with autograd.record():
            loss = loss_of(model(images), labels).mean()
        loss.backward()
        gluon.utils.clip_global_norm([p.grad() for p in parameters], 1.0, check_isfinite=False)
        trainer.step(1)
        return float(loss.asscalar())

    return step


if __name__ == "__main__":
    serve(make_step)
