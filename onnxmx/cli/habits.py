"""Options as other tools call them, and what to write here."""

from __future__ import annotations

from collections.abc import Collection

_HABITS: dict[tuple[str, ...], dict[str, str]] = {
    ("--epoch", "--num-epochs", "--n-epochs", "-e"): {"--epochs": "Give --epochs."},
    ("--batch", "--bs", "-b"): {"--batch-size": "Give --batch-size."},
    ("--dataset", "--train-data", "-d"): {"--data": "Give --data."},
    ("--val-data", "--validation-data", "--validation-split", "--val-split"): {
        "--resume": "Leave it out: the test split of the dataset is validated on (docs/data.md)."
    },
    ("--checkpoint", "--weights", "--pretrained", "--load"): {
        "--resume": "Give the .onnx file as the argument in the place of a model's name, or --resume DIR."
    },
    ("--verbose", "--quiet", "-v", "-q"): {"--debug": "Leave it out: what is said while it runs goes to stderr."},
    ("--lr-scheduler", "--scheduler", "--lr-schedule"): {"--schedule": "Give --schedule."},
    ("--config", "--cfg", "-c"): {"--set": "Give the file as the argument: onnxmx train config.toml"},
    ("--model", "--model-name", "--network", "-m"): {"model": "Give the model as the argument, without an option."},
    ("--learning-rate",): {"--lr": "Give --lr."},
    ("--metric", "--metrics"): {"--measure": "Give --measure."},
    ("--weight-decay", "--wd"): {"--set": "Give the key of config.toml: -s optimizer.weight_decay=1e-4"},
    ("--momentum",): {"--set": "Give the key of config.toml: --optimizer momentum -s optimizer.momentum=0.9"},
    ("--amp", "--fp16", "--half"): {"--precision": "Give --precision float16."},
    ("--early-stopping",): {"--patience": "Give --patience, in epochs."},
    ("--device", "--gpu", "--gpus", "--cuda"): {"--provider": "Give --provider cuda."},
    ("--workers", "--num-workers", "-j"): {"--threads": "Give --threads."},
    ("--output", "--output-dir", "--save"): {"--out": "Give --out."},
}
"""For each of these, advice for a command that takes the argument or option in front of it."""


_COMMANDS = {
    **dict.fromkeys(("fit", "run", "finetune", "gan"), "train"),
    **dict.fromkeys(("test", "eval", "validate", "score", "benchmark"), "evaluate"),
    **dict.fromkeys(("infer", "inference", "classify"), "predict"),
    **dict.fromkeys(("compress", "optimize"), "quantize"),
    **dict.fromkeys(("list", "ls", "zoo"), "models"),
    **dict.fromkeys(("info", "show", "inspect"), "summary"),
    **dict.fromkeys(("plot", "netron"), "view"),
    **dict.fromkeys(("deploy", "host"), "serve"),
}
_WITHOUT = {
    **dict.fromkeys(("new", "init", "demo", "start", "quickstart"), "onnxmx train lenet --data digits -o runs/first"),
    **dict.fromkeys(("export", "convert", "save"), "the model.onnx of a run as it is: it is ordinary ONNX"),
    "resume": "onnxmx train --resume DIR",
    "version": "onnxmx --version",
    "help": "onnxmx --help",
}


def command_called(name: str) -> str | None:
    """What to write for the command `name` of another tool; None where nothing is known."""
    return f"Write onnxmx {_COMMANDS[name]}." if name in _COMMANDS else _WITHOUT.get(name) and f"Take {_WITHOUT[name]}."


def advice(name: str, takes: Collection[str]) -> str | None:
    """What to write for the option `name` in a command that takes these; None where nothing is known."""
    answers = next((found for names, found in _HABITS.items() if name in names), {})
    return next((said for needed, said in answers.items() if needed in takes), None)
