"""What of a run may change when it goes on, and why nothing else does."""

from __future__ import annotations

from collections.abc import Iterable

from onnxmx.errors import UsageError

MAY_CHANGE = ("epochs", "time_budget_s", "checkpoint_s", "log_every", "logs", "data_dir")
"""Keys of config.toml."""
_IN_STEP = "It is compiled into the run's step.onnx."
_BYTES = "With another the run would not end in the bytes of one that never stopped."
_HISTORY = "It judges the epochs from the first one on."
_BEFORE = "It comes before the first step of a run."
STAYS: dict[str, str] = {
    **dict.fromkeys(
        ("model", "loss", "optimizer", "lr", "schedule", "warmup", "clip", "regularize", "average", "mix", "precision",
         "micro_batches", "measure", "engine", "tune", "gan", "teacher"), _IN_STEP),
    **dict.fromkeys(("data", "batch_size", "seed", "threads", "provider"), _BYTES),
    **dict.fromkeys(("patience", "min_delta", "keep_best"), _HISTORY),
    **dict.fromkeys(("profile", "fast_dev_run", "overfit_one_batch"), _BEFORE),
    "out": "A run goes on in its folder.",
}  # fmt: skip
"""The other keys, each with the reason."""


def check_changes(keys: Iterable[str]) -> None:
    """Raises UsageError for a key, dotted too, that a run that goes on keeps as it is. Unknown ones are not its."""
    for key in keys:
        if why := STAYS.get(key.partition(".")[0]):
            raise UsageError(
                f"a run that goes on expected {key} to be left out, it stays as it was; found it",
                mend=f"{why} What may change: {', '.join(MAY_CHANGE)}. "
                "Others are those of a new run: onnxmx train DIR/config.toml ...",
            )
