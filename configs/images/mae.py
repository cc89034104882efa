"""Masked autoencoding of images, before they are told apart (docs/images.md). ARG: the source, such as images:FOLDER."""

from ptft_jax import config as configs
from ptft_jax.model import presets


def get_config(source: str = "images:letters") -> configs.Config:
    config = configs.default()
    config.model.update(**presets.images("vit", size=28, patch=4))
    config.model.update(layers=4, width=128, heads=4, channels=1, positions="sine", head="pixels", scan=False)
    config.model.update(decoder_layers=2, decoder_width=64)
    config.objective.name = "masked_images"
    config.data.update(source=source, batch_size=64)
    config.data.augment.update(crop=0.5)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0.05, weight_decay=0.05)
    config.training.steps = 1000
    config.eval.every = 200
    return config
