"""GANs: the losses beside numpy's, a toy distribution that is learned, the files of a run, and resuming it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.values import Value
from onnxmx.errors import CheckpointError, ModelFileError, OnnxmxError, OnnxmxWarning, ShapeError, UsageError
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.gan.pictures import noise_for
from onnxmx.trainer.gan.rounds import Rounds
from onnxmx.trainer.gan.steps import Game, pair
from onnxmx.trainer.losses import Spec
from onnxmx.trainer.run import resolve_pair, resume_run, train
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]


def nets(out: int = 2) -> tuple[mx.Model, mx.Model]:
    generator = L.Sequential(L.Dense(16), L.BatchNorm(), L.Activation("relu"), L.Dense(out)).build(z=("batch", 3))
    discriminator = L.Sequential(L.Dense(16, activation="tanh"), L.Dense(1)).build(x=("batch", out))
    return generator, discriminator


def mixing() -> mx.Model:
    """A discriminator whose scores depend on the other points of the batch."""
    return L.Sequential(L.Dense(8), L.BatchNorm(), L.Dense(1)).build(x=("batch", 2))


def cloud(n: int = 512) -> Dataset:
    """Points around (1, -2), with labels that a GAN passes over."""
    points = np.random.default_rng(0).normal([1.0, -2.0], [0.3, 0.1], (n, 2)).astype(np.float32)
    return Dataset.from_arrays({"x": points}, np.zeros(n, np.int64))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


@pytest.mark.parametrize(
    ("game", "expected"),
    [
        (Game(), lambda r, f: softplus(-r).mean() + softplus(f).mean()),
        (
            Game(smoothing=0.1),
            lambda r, f: 0.9 * softplus(-r).mean() + 0.1 * softplus(r).mean() + softplus(f).mean(),
        ),
        (Game("wasserstein_gan", penalty=0.0), lambda r, f: f.mean() - r.mean()),
    ],
    ids=["non-saturating", "smoothed", "wasserstein"],
)
def test_the_discriminators_loss(game: Game, expected: Any) -> None:
    generator, discriminator = nets()
    made = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
    joint = pair(generator, discriminator, Update(mx.SGD()), Update(mx.SGD(0.0)))

    def loss(nets: Any, batch: Any) -> Any:
        return game.discriminating(nets, batch["x"], batch["made"])

    spec = Spec(("batch", 2), ir.DataType.FLOAT)
    engine = joint.start({"d": joint.step("discriminator", loss, batch={"x": spec, "made": spec})}, threads=1)
    real = cloud().batch(slice(7))["x"]
    found = engine.step({"x": real, "made": made}, "d")
    scores = discriminator(real), discriminator(made)
    np.testing.assert_allclose(found["loss"], expected(*scores), rtol=1e-5)
    np.testing.assert_allclose([found["real_score"], found["made_score"]], [s.mean() for s in scores], rtol=1e-4)


def test_the_penalty_of_a_linear_critic_is_known() -> None:
    """Its slope is w everywhere: the penalty is (|w| - 1)^2, and 2 (|w| - 1) w / |w| its gradient."""
    generator = L.Dense(2).build(z=("batch", 3))
    critic = L.Dense(1, bias=False).build(x=("batch", 2))
    joint = pair(generator, critic, Update(mx.SGD()), Update(mx.SGD(1.0)))

    def loss(nets: Any, batch: Any) -> Any:
        from onnxmx.trainer.gan.steps import gradient_penalty

        return gradient_penalty(nets, batch["x"], -batch["x"])

    spec = Spec(("batch", 2), ir.DataType.FLOAT)
    engine = joint.start({"d": joint.step("discriminator", loss, batch={"x": spec})}, threads=1)
    w = engine.state()["discriminator.weight"]
    norm = np.linalg.norm(w)
    found = engine.step({"x": cloud().batch(slice(5))["x"]}, "d")
    np.testing.assert_allclose(found["loss"], (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(
        engine.state()["discriminator.weight"], w - 2 * (norm - 1) * w / norm, rtol=1e-4, atol=1e-6
    )


def test_the_generator_s_schedule_ends_with_its_own_steps() -> None:
    joint = pair(*nets(), Update(mx.SGD(mx.Linear(0.5))), Update(mx.SGD(0.0)))
    game = Game(k=4)
    engine = joint.start(game.steps(joint, 2, 8), threads=1)  # two of the generator
    assert [engine.step({}, "generator")["lr"] for _ in range(2)] == [0.5, 0.0]
    assert (game.penalty, Game("wasserstein_gan").penalty) == (0.0, 10.0)


def test_the_sums_of_a_round() -> None:
    """A sample counts once, whatever the batch; the generator's loss counts where it was its turn."""
    joint = pair(*nets(), Update(mx.SGD()), Update(mx.SGD()))
    rounds = Rounds(joint.start(Game(k=2).steps(joint, 7, 4), threads=1), 2)
    for size, turns in ((7, 0), (5, 1), (7, 0)):
        measured = rounds.step({"x": cloud().batch(slice(size))["x"]})
        np.testing.assert_allclose(rounds.sums["sum.loss"], [measured["loss"] * size, size])
        assert rounds.sums["sum.generator_loss"][1] == turns
        assert ("generator_loss" in measured) == bool(turns)


def test_a_step_that_is_not_finite_gives_the_generator_no_turn() -> None:
    """The state before the step of the discriminator, where what went wrong is looked for, would be gone."""
    joint = pair(*nets(), Update(mx.SGD()), Update(mx.SGD()))
    rounds = Rounds(joint.start(Game().steps(joint, 7, 4), threads=1), 1)
    assert "generator_loss" in rounds.step({"x": cloud().batch(slice(7))["x"]})
    measured = rounds.step({"x": np.full((7, 2), np.nan, np.float32)})
    assert "generator_loss" not in measured
    assert rounds.sums["sum.generator_loss"][1] == 0
    state = rounds.state()
    assert (int(state["discriminator.step"]), int(state["generator.step"])) == (2, 1)


def test_a_penalty_goes_through_batch_norm_too() -> None:
    """It is not what its paper advises, which a warning says, and no error."""
    joint = pair(nets()[0], mixing(), Update(mx.SGD()), Update(mx.SGD(1e-3)))
    with pytest.warns(OnnxmxWarning, match="BatchNorm"):
        steps = Game("wasserstein_gan").steps(joint, 4, 1)
    engine = joint.start(steps, threads=1)
    found = engine.step({"x": cloud().inputs["x"][:4]}, "discriminator")
    assert np.isfinite(found["loss"])
    assert found["grad_norm"] > 0
    assert engine.state()["discriminator.1.running_var"].min() != 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": 0.1},
        {"loss": "wasserstein_gan", "k": 3, "penalty": 1.0, "optimizer": mx.Adam(5e-3, beta1=0.0, beta2=0.9)},
        {"average": mx.EMA(0.9), "clip": mx.clip_global_norm(5.0)},
    ],
    ids=["non-saturating", "wasserstein", "averaged"],
)
def test_a_cloud_of_points_is_learned(options: dict[str, Any]) -> None:
    generator, discriminator = nets()
    settings = {"optimizer": mx.Adam(5e-3, beta1=0.5)} | options
    run = mx.fit_gan(generator, discriminator, cloud(), epochs=40, batch_size=32, threads=1, progress=False, **settings)
    points = run.model(noise_for(run.model, 1000, 9))
    np.testing.assert_allclose(points.mean(0), [1.0, -2.0], atol=0.25)
    assert points.std(0).max() < 0.8
    assert run.best["epoch"] == len(run.history) == 40
    assert {"loss", "generator_loss", "real_score", "made_score", "grad_norm"} <= run.history[-1].keys()


def test_k_steps_of_the_discriminator_to_one_of_the_generator(tmp_path: Path) -> None:
    generator, discriminator = nets()
    run = tmp_path / "run"
    mx.fit_gan(generator, discriminator, cloud(70), epochs=2, batch_size=10, k=3, samples=0, out=run, progress=False)
    from onnxmx.trainer import state

    arrays, _ = state.load(run / "checkpoints" / "step-18.safetensors")  # 14 batches, and 4 turns of the generator
    assert (int(arrays["discriminator.step"]), int(arrays["generator.step"])) == (14, 4)


def small() -> tuple[mx.Model, mx.Model]:
    """Convolutions with running statistics, for images of 8 pixels."""
    sizes = {"code": 5, "width": 4}
    generator = mx.models.build("dcgan_generator", output=(1, 8, 8), **sizes)
    return generator, mx.models.build("dcgan_discriminator", input=(1, 8, 8), width=4)


def digits() -> Dataset:
    return mx.gan.centred(mx.data.digits("train").take(300))


class Interruption(mx.Callback):
    """A stop in the middle of an epoch, as by Ctrl-C."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, loop: Any, measured: Any) -> None:
        self.at -= 1
        if self.at == 0:
            loop.stop("that is enough")


RESULTS = ("model.onnx", "last.onnx", "discriminator.onnx", "metrics.jsonl", "samples/epoch-3.png")


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 32, "k": 2, "samples": 9, "threads": 1, "progress": False}
    options |= {"average": mx.EMA(0.9), "log_every": 3}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    mx.fit_gan(*small(), digits(), out=whole, **options)
    paused = mx.fit_gan(*small(), digits(), out=stopped, callbacks=[Interruption(13)], **options)
    assert paused.stopped == "that is enough"
    assert not (stopped / "samples" / "epoch-2.png").exists()
    mx.resume(stopped, digits(), log_every=3, progress=False)
    for name in RESULTS:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    with pytest.raises(CheckpointError, match="data_digest"):
        mx.resume(whole, digits().take(200), progress=False)


def test_the_files_of_a_run(tmp_path: Path) -> None:
    from PIL import Image

    run = tmp_path / "run"
    options: dict[str, Any] = {"discriminator_optimizer": mx.SGD(0.01), "average": mx.EMA(0.9), "out": run}
    made = mx.fit_gan(*small(), digits(), batch_size=32, samples=10, threads=1, progress=False, **options)
    from onnxmx.trainer import state

    slots = {n for n in state.load(run / "state.safetensors")[0] if n.endswith(".v")}
    assert {n.partition(".")[0] for n in slots} == {"generator"}  # Adam's, which the other has not
    after, _ = state.load(next((run / "checkpoints").iterdir()))
    for name, array in made.model.parameters().items():
        np.testing.assert_array_equal(array, after[f"generator.ema.{name}"])
    index = json.loads((run / "step.json").read_text())
    assert index["steps"] == ["step-discriminator", "step-generator"]
    assert index["settings"]["k"] == 1
    for name in index["steps"]:
        model = onnx.load(run / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {o.domain for o in model.opset_import} <= {"", "ai.onnxmx"}
        onnxruntime.InferenceSession(run / f"{name}.onnx", providers=["CPUExecutionProvider"])
    with Image.open(run / "samples" / "epoch-1.png") as picture:
        assert (picture.mode, picture.size) == ("L", (4 * 8 + 3 * 2, 3 * 8 + 2 * 2))
    made = mx.load(run / "model.onnx")(noise_for(small()[0], 3, 0))
    assert made.shape == (3, 1, 8, 8)
    assert mx.load(run / "discriminator.onnx")(made).shape == (3, 1)
    mx.fit_gan(*small(), digits(), samples=0, threads=1, out=run, overwrite=True, progress=False)
    assert not list(run.glob("samples/*.png"))


def test_a_judge_counts_what_it_is_sure_of() -> None:
    """A generator of constants, and a classifier that is sure of what is bright."""

    def bright(z: Value) -> Value:
        return z.builder.reshape(z[:, :1], [0, 1, 1, 1])

    def which(x: Value) -> Value:
        flat = x.builder.reshape(x, [0, 1]) * 40.0
        return x.builder.concat([flat, 20.0 - flat], 1)

    generator, classifier = mx.build(bright, z=("batch", 2)), mx.build(which, x=("batch", 1, 1, 1))
    found = mx.gan.judge(generator, classifier, samples=500, confidence=0.99, shift=0.0)
    images = noise_for(generator, 500, 1)[:, 0] / 2
    margin = np.abs(80 * images - 20)
    sure = margin > np.log(99)
    assert found["confident"] == pytest.approx(sure.mean())
    assert found["classes"] == [int((sure & (images > 0.25)).sum()), int((sure & (images < 0.25)).sum())]


def test_images_lie_between_minus_one_and_one() -> None:
    data = mx.gan.centred(mx.data.digits("train"))
    (images,) = data.batch(slice(300)).values()
    assert (images.min(), images.max()) == (-1, 1)
    noise = noise_for(small()[0], 5000, 3)
    assert noise.shape == (5000, 5)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_from_the_command_line_s_configuration(tmp_path: Path) -> None:
    settings = {"model": "dcgan", "data": "digits", "epochs": 1, "lr": 1e-3, "gan.smoothing": 0.1, "gan.samples": 4}
    config = TrainConfig.of_settings({**settings, "threads": 1, "batch_size": 256})
    assert (config.loss, config.schedule, config.lr) == ("non_saturating_gan", "constant", 1e-3)
    assert repr(config.make_optimizer()).startswith("Adam(lr=Constant(") or config.make_optimizer().beta1 == 0.5  # type: ignore[attr-defined]
    run = train(config, tmp_path / "run", progress=False)
    assert run.best["epoch"] == 1
    assert (tmp_path / "run" / "samples" / "epoch-1.png").exists()
    again = resume_run(tmp_path / "run", progress=False)  # it has ended: the same
    assert again.history == run.history


@pytest.mark.filterwarnings("error")
def test_of_a_file_without_a_test_split_every_sample_is_trained_on(tmp_path: Path) -> None:
    """There is no evaluation that any could be held out for. A resumed run takes the same ones."""
    x = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    settings = {"model": "mlp_gan", "data": "d.npz", "epochs": 1, "batch_size": 8, "gan.samples": 0}
    config = TrainConfig.of_settings({**settings, "data_dir": str(tmp_path), "average": "ema", "threads": 1})
    run = train(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "checkpoints" / "step-10.safetensors").is_file()  # 5 batches, and as many turns
    made = json.loads((tmp_path / "run" / "step.json").read_text())["settings"]
    assert ["average" in made[net] for net in ("generator", "discriminator")] == [True, False]
    assert resume_run(tmp_path / "run", progress=False).history == run.history


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import onnxmx as mx\n\n"
        "def net(input):\n"
        "    g = mx.models.build('mlp_gan_generator', output=input, code=4, hidden=(8,))\n"
        "    return g, mx.models.build('mlp_gan_discriminator', input=input, hidden=(8,))\n\n"
        "def plain(input):\n"
        "    return mx.models.build('mlp', input=input)\n"
    )
    settings = {"data": "digits", "epochs": 1, "loss": "wasserstein_gan", "gan.k": 2, "gan.samples": 0, "threads": 1}
    for name, trained in (("net", True), ("plain", False)):
        config = TrainConfig.of_settings({"model": f"{tmp_path / 'mine.py'}:{name}", **settings})
        if trained:
            assert "made_score" in train(config, tmp_path / name, progress=False).best
        else:
            with pytest.raises(UsageError, match="plain expected to be a GAN"):
                train(config, tmp_path / name, progress=False)


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ("(): return mx.models.build('mlp')", UsageError, r"found .*Model.*\n  built at .*own.py:2\n"),
        ("(input): return [L.Dense(3)] * 40", UsageError, r"found \[Dense\(.{60,80}\n"),
        ("(input): return mx.models.get_model('mlp_gan')(input)", UsageError, r"found a layer, GAN\n"),
        ("(input): raise OSError('no moon')", ModelFileError, r"raised OSError: no moon\n  built at .*own.py:2\n"),
        ("(input, code): ...", ModelFileError, r"raised TypeError: .*'code'\n.*\n  Of its parameters only input are"),
    ],
)
def test_a_function_of_ones_own_that_is_no_gan(tmp_path: Path, body: str, error: type[Exception], text: str) -> None:
    (tmp_path / "own.py").write_text(f"import onnxmx as mx; from onnxmx import layers as L\ndef net{body}\n")
    with pytest.raises(error, match=text):
        resolve_pair(f"{tmp_path / 'own.py'}:net", mx.data.digits("test"))


def test_a_penalty_beside_batch_norm_is_warned_of() -> None:
    generator, discriminator = nets()

    def run(critic: mx.Model, loss: str) -> None:
        mx.fit_gan(generator, critic, cloud(64), loss=loss, batch_size=32, progress=False)

    with pytest.warns(OnnxmxWarning, match="BatchNorm mixes those of a batch") as found:
        run(mixing(), "wasserstein_gan")
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(mixing(), "non_saturating_gan")
        run(discriminator, "wasserstein_gan")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g, d: mx.fit_gan(g, d, cloud(), loss="hinge"), "a GAN expected the loss 'non_saturating_gan' or"),
        (lambda g, d: mx.fit_gan(g, d, cloud(), k=0), "k expected an integer of at least 1; found 0"),
        (lambda g, d: mx.gan.Game(["hinge"]), "a GAN expected the loss 'non_saturating_gan' or"),
        (lambda g, d: mx.gan.Game(penalty=np.ones(2)), "penalty expected a finite number"),
        (lambda g, d: mx.fit_gan(g, d, cloud(), smoothing=0.5), "smoothing expected a share"),
        (lambda g, d: mx.fit_gan(g, d, cloud(), penalty=-1), "penalty expected a finite number"),
        (lambda g, d: mx.fit_gan(nets(3)[0], d, cloud()), "expected a generator of what the discriminator takes"),
        (lambda g, d: mx.fit_gan(mx.models.build("dcgan"), d, cloud()), "a generator of one input and one output"),
    ],
)
def test_what_is_no_game(change: Any, text: str) -> None:
    with pytest.raises((UsageError, ShapeError), match=text) as caught:
        change(*nets())
    assert isinstance(caught.value, OnnxmxError)


def test_points_make_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="a picture of samples expected images of 1 or 3 channels"):
        mx.fit_gan(*nets(), cloud(), out=tmp_path / "run", progress=False)
