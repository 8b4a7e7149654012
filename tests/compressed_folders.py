"""Folders of models that nobody trained, as `resnet-jax compress` writes them."""

import pathlib

from random_models import random_variables
from running import tiny

from resnet_jax.compress.folder import Description, write_model, write_report
from resnet_jax.data import Preprocessing
from resnet_jax.training.start import build_model

NAMES = tuple('0123456789')


def random_folder(folder: pathlib.Path, fields=None, seed=0) -> pathlib.Path:
    """A tiny network of random weights for the digits, its config with these fields changed."""
    config = tiny(fields)
    model = build_model(config.model, 10)
    preprocessing = Preprocessing(8, 1, None, (0.3,), (0.4,), NAMES)
    folder.mkdir(parents=True)
    variables = random_variables(model, (1, 8, 8, 1), seed)
    about = Description(config.model.name, config, preprocessing, 'random')
    write_model(folder, about, model, variables)
    write_report(folder, {'before': {}, 'after': {}})
    return folder
