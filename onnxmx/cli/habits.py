"""Options as other tools call them, and what to write here."""

from __future__ import annotations

from collections.abc import Collection

_HABITS: dict[tuple[str, ...], dict[str, str]] = {
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


def advice(name: str, takes: Collection[str]) -> str | None:
    """What to write for the option `name` in a command that takes these; None where nothing is known."""
    answers = next((found for names, found in _HABITS.items() if name in names), {})
    return next((said for needed, said in answers.items() if needed in takes), None)
