"""Generative adversarial networks: two steps over one state, run in turns.

steps.py     the losses of the two steps      rounds.py    who runs them in turns, as the training loop sees it
run.py       `mx.fit_gan`                     pictures.py  sample grids, and a classifier's judgement of samples
"""

from onnxmx.trainer.gan.pictures import judge, write_grid
from onnxmx.trainer.gan.run import centred, fit_gan
from onnxmx.trainer.gan.steps import Game

__all__ = ["Game", "centred", "fit_gan", "judge", "write_grid"]
