"""A small ViT that learns the classes of images. ARG: the source, such as images:FOLDER (docs/images.md)."""

from ptft_jax import config as configs
from ptft_jax.model import presets


def get_config(source: str = "images:letters") -> configs.Config:
    config = configs.default()
    config.model.update(**presets.images("vit", size=28, patch=4))
    config.model.update(layers=4, width=128, heads=4, channels=1, classes=10, dropout=0.1, scan=False)
    config.objective.update(name="classification", label_smoothing=0.1)
    config.data.update(source=source, batch_size=64)
    config.data.augment.update(shift=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0.05, weight_decay=0.05)
    config.training.steps = 1000
    config.eval.every = 200
    config.select.metric = "validation/accuracy"
    return config
