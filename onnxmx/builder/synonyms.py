"""Arguments as Keras, PyTorch and Gluon call them, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Collection

_STATIC = "Leave it out: a layer takes it from what it is called on."
_ON_FIT = "Give it to the training: mx.fit(..., regularize=mx.L2(1e-4))."
_CLIP = ("clip=mx.clip_global_norm(...)", "Give it to the training: mx.fit(..., clip=mx.clip_global_norm(1.0)).")
_SYNONYMS: dict[tuple[str, ...], tuple[str, ...]] = {
    # layers
    ("filters", "out_channels", "n_filters"): ("channels",),
    ("out_features", "num_hidden", "hidden_size", "out_units", "output_size", "n_units"): ("units",),
    ("output_dim", "embedding_dim", "embed_dim"): ("units",),
    ("num_embeddings", "vocab_size"): ("count",),
    ("input_dim",): ("count", _STATIC),
    ("in_channels", "in_features", "in_units", "input_size", "num_features", "normalized_shape"): (_STATIC,),
    ("d_model",): (_STATIC,),
    ("axis",): ("Leave it out: channels are axis 1, features the last one; Softmax(axis=1) takes another.",),
    ("dim",): ("axis", _STATIC),
    ("input_shape",): ("input=(channels, height, width)", "Leave it out: net.build(x=('batch', 4)) says it."),
    ("batch_input_shape", "input_length"): ("Leave it out: net.build(x=('batch', 4)) says it.",),
    ("kernel_size", "pool_size"): ("kernel", "size"),
    ("strides",): ("stride",),
    ("dilation_rate",): ("dilation",),
    ("ceil_mode",): ("ceil",),
    ("use_bias", "bias_attr"): ("bias",),
    ("kernel_initializer", "weight_initializer", "embeddings_initializer", "gamma_initializer"): ("weight_init",),
    ("bias_initializer", "beta_initializer"): ("bias_init",),
    ("recurrent_initializer",): ("recurrent_init",),
    ("kernel_regularizer", "weight_regularizer", "bias_regularizer", "activity_regularizer"): (_ON_FIT,),
    ("data_format", "layout"): ("Leave it out: channels come before the axes of space.",),
    ("batch_first", "time_major"): ("Leave it out: the batch is the first axis.",),
    ("trainable",): ("Freeze it in the model: model.freeze('head.*').",),
    ("inplace",): ("Leave it out: nothing is changed in place.",),
    ("p", "rate", "prob", "drop_prob"): ("ratio", "dropout"),
    ("num_layers",): ("layers",),
    ("num_heads", "nhead", "n_heads"): ("heads",),
    ("dim_feedforward", "intermediate_dim"): ("hidden",),
    ("is_causal", "use_causal_mask"): ("causal",),
    ("padding_idx",): ("padding",),
    ("mask_zero",): ("padding=0, and give the layers above a mask: LSTM(units)(x, mask=tokens > 0)",),
    ("recurrent_dropout", "recurrent_activation"): ("Leave it out: there is none between the steps of a sequence.",),
    ("training",): ("Leave it out: training and inference are two graphs.",),
    ("num_groups",): ("groups",),
    ("scale_factor", "upscale_factor"): ("scale",),
    ("negative_slope",): ("slope",),
    ("eps",): ("epsilon",),
    # optimizers and schedules
    ("learning_rate", "base_lr", "initial_learning_rate", "lr"): ("lr", "rate", "peak", "optimizer=mx.Adam(lr=...)"),
    ("lr_scheduler", "scheduler", "lr_schedule", "schedule"): (
        "lr=mx.Cosine(...)",
        "optimizer=mx.Adam(lr=mx.Cosine(...))",
    ),
    ("betas",): ("beta1=..., beta2=...",),
    ("wd", "l2"): ("weight_decay",),
    ("rho", "alpha"): ("decay", "slope", "floor"),
    ("gamma", "decay_rate"): ("factor", "decay"),
    ("nesterov",): ("Use mx.NAG(lr, momentum), which is that.",),
    ("clipnorm", "clipvalue", "clip_gradient", "max_grad_norm", "gradient_clip_val", "grad_clip"): _CLIP,
    ("params", "parameters"): ("Leave it out: mx.fit gives an optimizer its parameters.",),
    ("step_size", "decay_steps"): ("every", "up", "total", "timescale"),
    ("step_size_up",): ("up",),
    ("step_size_down",): ("down",),
    ("milestones", "boundaries"): ("at",),
    ("T_max", "total_steps", "total_iters", "max_update"): ("total",),
    ("T_0", "first_decay_steps"): ("period",),
    ("T_mult", "t_mul"): ("factor",),
    ("eta_min", "min_lr", "final_lr", "end_learning_rate"): ("floor",),
    ("max_lr",): ("rate",),
    ("warmup_steps", "num_warmup_steps", "warmup_updates"): ("warmup",),
    ("pct_start",): ("share",),
    ("div_factor",): ("divide",),
    ("final_div_factor",): ("final",),
    ("last_epoch",): ("Leave it out: the step's own count of updates is what a schedule reads.",),
    # training
    ("train_data", "train_loader", "train_dataset", "dataset", "dataloader"): ("data",),
    ("train", "download"): ("split='train' or split='test'", "Leave it out: what is not there is downloaded."),
    ("transform", "target_transform"): ("scale=1 / 255", "Change the arrays before they become a dataset."),
    ("data", "features", "images", "samples", "x_train", "X_train"): ("inputs",),
    ("label", "target", "targets", "y_train"): ("labels",),
    ("batch_size",): ("Give it to the training: mx.fit(..., batch_size=64).",),
    ("test_size", "val_size", "validation_size", "fraction"): ("share",),
    ("x", "y", "X"): ("data=mx.data.Dataset.from_arrays(x, y)", "inputs=..., labels=..."),
    ("validation_data", "val_data", "valid_data", "eval_data", "val", "test_data"): ("validation",),
    ("validation_split",): ("Hold samples out: train, test = data.hold_out(0.2); fit(model, train, validation=test).",),
    ("metrics", "metric", "eval_metric"): ("measure",),
    ("num_epochs", "num_epoch", "nb_epoch", "n_epochs", "max_epochs"): ("epochs", "Give it to mx.fit(..., epochs=10)."),
    ("criterion", "loss_fn", "loss_function", "objective"): ("loss",),
    ("opt",): ("optimizer",),
    ("weight_decay",): ("optimizer=mx.AdamW(weight_decay=...)",),
    ("verbose",): ("progress", "Leave it out: only mx.fit tells how far it is, unless progress=False."),
    ("mode",): ("larger=True",),
    ("monitor",): ("Leave it out: it watches the training loss.",),
    ("device", "ctx", "context", "accelerator", "providers"): ("provider",),
    ("num_threads", "n_threads", "num_workers", "workers"): ("threads",),
    ("class_weight", "class_weights"): ("loss=mx.losses.SoftmaxCrossEntropy(class_weight=[...])",),
    ("sample_weight",): ("Repeat the samples that count more: data.subset(numbers); or give the loss a class_weight.",),
    ("steps_per_epoch", "max_steps", "limit_train_batches"): ("Give it fewer samples, data.take(1000), or epochs.",),
    ("validation_freq", "validation_steps"): ("Leave it out: all of it is validated on after each epoch.",),
    ("resume_from_checkpoint", "ckpt_path", "checkpoint"): ("To go on with a run: mx.resume(folder, data).",),
    ("shuffle",): ("Leave it out: each epoch has another order, drawn from seed.",),
    ("random_state", "random_seed"): ("seed",),
    ("logdir", "log_dir", "save_dir", "output_dir", "out_dir", "checkpoint_dir", "filepath"): ("out",),
    ("gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum", "accumulate"): ("micro_batches",),
    ("amp", "fp16", "dtype"): ("precision", "Leave it out: parameters are float32; mx.fit(..., precision=...)."),
    ("early_stopping", "early_stopping_patience"): ("patience",),
    ("regularizer", "l1"): ("regularize=mx.L1(...)",),
    ("ema",): ("average=mx.EMA()",),
    ("initial_epoch",): ("To go on with a run: mx.resume(folder, data).",),
    ("restore_best_weights",): ("Leave it out: the model of a run is that of its best epoch.",),
    # losses and metrics
    ("label_smoothing",): ("smoothing",),
    ("from_logits",): ("Leave it out: the losses of classes take logits.",),
    ("reduction", "size_average", "reduce"): ("Leave it out: a loss is the mean over the samples.",),
    ("pos_weight",): ("positive",),
    ("num_classes", "n_classes"): (
        "classes",
        "Leave it out: the output of the model says it.",
    ),
    ("top_k",): ("k", "Take mx.metrics.TopK(k=5)."),
    ("ignore_label",): ("ignore_index",),
    # models, and what they are read from
    ("inputs", "outputs"): ("Write a function of graph values: mx.build(net, x=('batch', 4)).",),
    ("pretrained", "weights"): ("Leave it out: models come untrained; mx.load('model.onnx') reads a trained one.",),
    ("include_top",): ("Leave it out: model.replace_head(name, layers) takes another head.",),
    ("opset_version",): ("Leave it out: a model is of opset 20.",),
    ("map_location",): ("Leave it out: provider='cuda' of mx.fit says where to run.",),
}
"""By names from other libraries, what stands for them: an argument, or a sentence with a capital.

Of several arguments the first counts that is taken."""
_BY_NAME = {name: offers for names, offers in _SYNONYMS.items() for name in names}


def instead_of(name: str, taken: Collection[str]) -> str | None:
    """A sentence that says what to write for the argument `name`; None where no other library is known to have it.

    taken: the arguments that are taken.
    """
    for offer in _BY_NAME.get(name, ()):
        if offer[0].isupper():
            return offer
        first = re.match(r"\w+", offer)
        if first and first[0] in taken:
            return f"Write {offer if '=' in offer else f'{offer}=...'} instead."
    return None
