"""Names that other libraries have and this one has not: what to write instead.

A name of a module, as an attribute or after `from onnxmx... import`, is answered by `without`; an attribute of an
object by `KnowsOthers`. Arguments are in `synonyms`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from opcode import opmap
from typing import TYPE_CHECKING, ClassVar, Never, NoReturn

from onnxmx.errors import nearest

_CLASSES = ("ReLU", "ReLU6", "GELU", "SELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish", "Swish")
_DATASET = "mx.data.Dataset.from_arrays(x, labels)"
_SEED = "mx.build(..., seed=0) and mx.fit(..., seed=0)"
_CUDA = "mx.fit(..., provider='cuda'); 'cpu' is the default"
_OWN_PARAMETER = 'x.builder.parameter("scale", (n,), mx.init.ones()), in forward'
_FUNCTION = "mx.build(net, x=('batch', 4)), where net is a function of graph values"

TOP = {
    **dict.fromkeys(("nn", "gluon", "keras", "sym", "symbol"), "mx.layers"),
    **dict.fromkeys(("Module", "Block", "HybridBlock"), "mx.layers.Layer"),
    **dict.fromkeys(("F", "functional", "activations", "npx"), "mx.layers: mx.layers.relu"),
    **dict.fromkeys(("nd", "np", "array", "NDArray", "tensor", "Tensor", "Variable", "to_tensor"),
                    "mx.layers in a model, numpy outside"),
    **dict.fromkeys(("cpu", "gpu", "cuda", "device", "Context", "context"), _CUDA),
    **dict.fromkeys(("random", "seed", "manual_seed", "set_seed", "set_random_seed"), _SEED),
    **dict.fromkeys(("autograd", "GradientTape"), "mx.Trainer, a step by hand, and mx.grad"),
    **dict.fromkeys(("no_grad", "inference_mode"), "model(array), a call, which makes no gradients"),
    **dict.fromkeys(("compile", "train"), "mx.fit(model, data, loss=..., optimizer=...)"),
    "Predictor": "mx.predict(model, data)",
    **dict.fromkeys(("save", "save_model", "export"), "model.save(path), of mx.Model"),
    **dict.fromkeys(("load_model", "load_checkpoint"), "mx.load"),
    **dict.fromkeys(("random_split", "train_test_split"), "mx.data.Dataset.hold_out"),
    **dict.fromkeys(("datasets", "io", "utils"), "mx.data"),
    **dict.fromkeys(("DataLoader", "TensorDataset", "ArrayDataset", "NDArrayIter"), _DATASET),
    **dict.fromkeys(("applications", "model_zoo", "vision", "torchvision"), "mx.models"),
    **dict.fromkeys(("to_categorical", "one_hot"), f"{_DATASET}: labels are class numbers"),
    **dict.fromkeys(("CrossEntropyLoss", "SoftmaxCrossEntropyLoss", "SoftmaxCELoss", "NLLLoss", "cross_entropy"),
                    "mx.losses.SoftmaxCrossEntropy"),
    "AGC": "mx.clip_adaptive",
    "CSVLogger": "mx.fit(..., out=..., logs=['csv'])",
    "CosineAnnealingLR": "mx.Cosine",
    "Dataset": "mx.data.Dataset",
    "ExponentialLR": "mx.Exponential",
    "LearningRateScheduler": "mx.optimizers: mx.Adam(lr=mx.Cosine(1e-3))",
    "MSELoss": "mx.losses.MeanSquaredError",
    "ModelCheckpoint": "mx.fit(..., out=..., keep_best=3)",
    "MultiStepLR": "mx.MultiStep",
    "OneCycleLR": "mx.OneCycle",
    "ReduceLROnPlateau": "mx.ReduceOnPlateau",
    "StepLR": "mx.Step",
    "TensorBoard": "mx.fit(..., out=..., logs=['tensorboard'])",
    "callback": "mx.callbacks",
    "clip_grad_norm_": "mx.clip_global_norm",
    "initializer": "mx.init",
    "initializers": "mx.init",
    "loss": "mx.losses",
    "lr_scheduler": "mx.schedules",
    "metric": "mx.metrics",
    "optim": "mx.optimizers: mx.Adam, mx.SGD",
    "optimizer": "mx.optimizers: mx.Adam, mx.SGD",
    "regularizers": "mx.L1, mx.L2, mx.MaxNorm",
}  # fmt: skip
"""By names that are looked for in `onnxmx` itself, and in its modules where they know no better."""
LAYERS = {
    "Linear": "Dense",
    **dict.fromkeys(("Module", "Block", "HybridBlock"), "Layer"),
    **dict.fromkeys(("ModuleList", "HybridSequential"), "Sequential"),
    **dict.fromkeys(("Input", "InputLayer"), _FUNCTION),
    **dict.fromkeys(("Parameter", "ParameterList"), _OWN_PARAMETER),
    "ModuleDict": "Parallel",
    "Upsample": "UpSample",
    "ZeroPad2d": "ZeroPad",
    "ReflectionPad2d": "ReflectionPad",
    "LocalResponseNorm2d": "LocalResponseNorm",
    "SimpleRNN": "RNN",
    "Bidirectional": "LSTM(units, bidirectional=True)",
    "TimeDistributed": "Dense, which takes the last axis and leaves the others",
    "Masking": "LSTM(units)(x, mask=mask)",
    **dict.fromkeys(
        ("Average", "Subtract", "Dot", "Cropping2D"),
        "a function of graph values, in which a - b, a @ b and slices are as in numpy",
    ),
    "Rescaling": "mx.data.Dataset.from_arrays(..., scale=1 / 255), which the model's file keeps",
    "Normalization": "mx.data.Dataset.from_arrays(..., scale=..., shift=...), which the model's file keeps",
    **dict.fromkeys(("DepthwiseConv2D", "SeparableConv2D"), "Conv2D(channels, kernel, groups=...)"),
    "Hardswish": 'Activation("hard_swish")',
    "Hardsigmoid": 'Activation("hard_sigmoid")',
    **{name: f'Activation("{name.lower()}")' for name in _CLASSES},
    **{f"Conv{n}d": f"Conv{n}D" for n in "123"},
    **{f"ConvTranspose{n}d": f"Conv{n}DTranspose" for n in "123"},
    **{f"{kind}Pool{n}d": f"{kind}Pool{n}D" for kind in ("Max", "Avg") for n in "123"},
    **{f"Adaptive{kind}Pool{n}d": f"Global{kind}Pool{n}D" for kind in ("Max", "Avg") for n in "123"},
    **{f"{kind}Norm{n}d": f"{kind}Norm" for kind in ("Batch", "Instance") for n in "123"},
    **{f"Dropout{n}d": "Dropout" for n in "123"},
}
DATA = {
    **dict.fromkeys(("DataLoader", "TensorDataset", "ArrayDataset", "NDArrayIter", "from_arrays"), _DATASET),
    **dict.fromkeys(
        ("ImageFolder", "ImageFolderDataset", "CIFAR10", "cifar10", "FashionMNIST", "fashion_mnist"),
        f"{_DATASET}, of its arrays, or an .npz file of them",
    ),
    "MNIST": "mnist",
}
INIT = {
    **dict.fromkeys(("Xavier", "GlorotUniform", "GlorotNormal", "xavier_uniform_", "xavier_normal_"), "xavier"),
    **dict.fromkeys(("MSRAPrelu", "HeUniform", "HeNormal", "kaiming_uniform_", "kaiming_normal_"), "he"),
}
ZOO = {"Sequential": "mx.layers.Sequential", "Model": "mx.build(net, x=('batch', 4)) and mx.load(path)"}
MODEL = {
    **dict.fromkeys(("fit", "train", "compile", "train_on_batch"), "mx.fit(model, data, loss=..., optimizer=...)"),
    **dict.fromkeys(("forward", "call", "run", "apply", "eval"), "model(array), a call"),
    **dict.fromkeys(("predict", "predict_proba"), "mx.predict(model, data)"),
    **dict.fromkeys(("evaluate", "score", "test"), "mx.evaluate(model, data)"),
    **dict.fromkeys(("state_dict", "get_weights", "weights", "named_parameters", "collect_params", "params",
                     "trainable_variables", "trainable_weights"), "model.parameters()"),
    **dict.fromkeys(("load_state_dict", "set_weights", "load_parameters"), "model.with_parameters(arrays)"),
    **dict.fromkeys(("load_weights", "load"), "mx.load(path)"),
    **dict.fromkeys(("export", "to_onnx", "save_weights", "save_parameters", "hybridize"), "model.save('model.onnx')"),
    **dict.fromkeys(("to", "cuda", "cpu", "as_in_context"), _CUDA),
    **dict.fromkeys(("layers", "get_layer", "children", "modules", "count_params"), "model.summary()"),
    "quantize": "mx.quantize(model, calibration, evaluation, out)",
    "grad": "mx.grad(model, wrt=...)",
}  # fmt: skip
_BUILT = "model = net.build(x=('batch', 4))"
LAYER = {
    **dict.fromkeys(("fit", "compile", "train_on_batch"), f"{_BUILT}, then mx.fit(model, data)"),
    **dict.fromkeys(("predict", "evaluate"), f"{_BUILT}, then mx.predict(model, data), mx.evaluate(model, data)"),
    **dict.fromkeys(("summary", "save", "save_parameters", "export"), f"{_BUILT}, then model.summary()"),
    **dict.fromkeys(("parameters", "named_parameters", "state_dict", "collect_params", "weights", "get_weights",
                     "load_state_dict", "weight"), f"{_BUILT}, then model.parameters()"),
    **dict.fromkeys(("initialize", "hybridize", "cast", "eval", "train", "zero_grad", "requires_grad_"),
                    f"{_BUILT}, which does all there is to do"),
    **dict.fromkeys(("to", "cuda", "cpu"), _CUDA),
    **dict.fromkeys(("add", "append", "extend", "register_child", "add_module"),
                    "Sequential([...]): a layer stays what it is made of, so give it all of them at once"),
    **dict.fromkeys(("add_weight", "params", "register_parameter", "register_buffer"), _OWN_PARAMETER),
    **dict.fromkeys(("name_scope",), "the layers without it: they are named by their place"),
}  # fmt: skip
DATASET = {
    **dict.fromkeys(("shuffle", "repeat", "prefetch", "cache"), "mx.fit(model, data), which does it"),
    **dict.fromkeys(("map", "transform", "transform_first", "filter"),
                    f"what makes an array of an array, then {_DATASET}; scale=1 / 255 is an argument"),
    **dict.fromkeys(("x", "X", "data", "images", "features", "tensors"), "data.inputs, a dict of arrays"),
    **dict.fromkeys(("y", "Y", "targets", "target"), "data.labels, a dict of arrays"),
    **dict.fromkeys(("from_tensor_slices", "from_generator", "from_numpy", "from_pandas", "from_csv"), _DATASET),
    **dict.fromkeys(("random_split", "train_test_split", "skip"), "train, test = data.hold_out(0.2)"),
    "batches": "mx.data.Loader(data, 64).epoch(0)",
    "shape": "data.input_shapes",
}  # fmt: skip
RUN = {
    **dict.fromkeys(("predict", "forward"), "mx.predict(run.model, data), or run.model(array), a call"),
    **dict.fromkeys(("save", "save_weights", "export"), "run.model.save('model.onnx')"),
    **dict.fromkeys(("parameters", "state_dict", "get_weights", "weights"), "run.model.parameters()"),
    **dict.fromkeys(("loss", "losses", "metrics", "epoch", "val_loss"), "run.history, the measures of each epoch"),
    **dict.fromkeys(("plot", "plot_history"), "mx.fit(..., out=..., logs=['curves'])"),
    "evaluate": "mx.evaluate(run.model, data)",
    "summary": "run.model.summary()",
    "fit": "mx.resume(folder, data), to go on with a run",
}
_BY_HAND = "mx.fit(model, data, optimizer=...), or mx.Trainer(model, optimizer=...).step({'x': x, 'label': y})"
OPTIMIZER = dict.fromkeys(("zero_grad", "step", "minimize", "apply_gradients", "param_groups"), _BY_HAND)
TRAINER = {
    **dict.fromkeys(("fit", "train", "run"), "mx.fit(model, data)"),
    **dict.fromkeys(("zero_grad", "backward", "train_step", "update"), "trainer.step({'x': x, 'label': y})"),
    **dict.fromkeys(("predict", "parameters", "state_dict"), "trainer.model, as it is now: a Model"),
    **dict.fromkeys(("set_learning_rate", "learning_rate", "lr"), "mx.Trainer(..., optimizer=mx.Adam(lr=schedule))"),
    **dict.fromkeys(("save_states", "save_checkpoint"), "trainer.save(path)"),
    **dict.fromkeys(("load_states", "load_checkpoint"), "trainer.load(path)"),
}
_IMPORT_FROM = opmap["IMPORT_FROM"]


class KnowsOthers:
    """An object that answers an attribute which it has not by what stands for it here."""

    _others: ClassVar[Mapping[str, str]] = {}
    """What is known of its attributes in other libraries."""

    if not TYPE_CHECKING:  # or any attribute would be one to a type checker

        def __getattr__(self, name: str) -> NoReturn:
            said = "" if name.startswith("_") else hint(name, self._others, [n for n in dir(self) if n[0] != "_"])
            raise AttributeError(f"{type(self).__name__} has no {name!r}{said}")


def hint(name: str, known: Mapping[str, str], options: Iterable[str]) -> str:
    """The end of an error over a missing `name`: what is known to stand for it, or the nearest option; or nothing."""
    if here := known.get(name):
        return f"; write {here}"
    near = None if name.startswith("_") else nearest(name, options)
    return f"; did you mean {near}?" if near else ""


def missing(where: str, name: str, said: str) -> AttributeError | ImportError:
    """The error for a name that a module has not, for its `__getattr__` to raise.   said: a hint.

    An ImportError where `from where import name` asks: Python would put one of its own, which says nothing more, in
    the place of any AttributeError. For all others, `hasattr` among them, it must be that.
    """
    asking = sys._getframe(2)
    by_import = asking.f_lasti >= 0 and asking.f_code.co_code[asking.f_lasti] == _IMPORT_FROM
    text = f"{where} has no {name!r}{said}"
    return ImportError(text, name=where) if by_import else AttributeError(text)


def without(where: str, known: Mapping[str, str], options: Iterable[str]) -> Callable[[str], Never]:
    """The `__getattr__` of a module: a name that it has not is answered by what stands for it here."""

    def __getattr__(name: str) -> Never:
        raise missing(where, name, hint(name, {**TOP, **known}, options))

    return __getattr__
