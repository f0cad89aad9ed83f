"""What `fit` and config.toml take and a GAN does not, and why."""

_AS_IT_IS = "Its two steps take the whole batch as it is; mx.Joint writes others."
_ONE_FORM = "Its two steps are made by the default engine, in one form and in float32; mx.Joint writes others."
_NO_BEST = (
    "No epoch of a GAN is better than another, and its model is the last; callbacks=[mx.EarlyStopping(5, "
    'monitor="generator_loss")] watches one measure, and samples/epoch-<n>.png shows each epoch.'
)
_JUDGED = "A GAN is measured by its losses and mean scores; mx.gan.judge(run.model, classifier) judges its samples."
_NO_TEACHER = "A generator learns from its discriminator alone."

NOT_OF_A_GAN: dict[str, str] = {
    "micro_batches": _AS_IT_IS,
    "mix": _AS_IT_IS,
    "precision": _ONE_FORM,
    "engine": _ONE_FORM,
    "tune": _ONE_FORM,
    "measure": _JUDGED,
    "validation": _JUDGED,
    "teach": _NO_TEACHER,
    "teacher": _NO_TEACHER,
    "patience": _NO_BEST,
    "min_delta": _NO_BEST,
    "keep_best": _NO_BEST,
    "overfit_one_batch": "The losses of the two need not fall where they learn: for a trial take fast_dev_run.",
}
"""By option, the reason, and what to do instead."""
