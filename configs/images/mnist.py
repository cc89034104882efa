"""Handwritten digits from random parameters: about 97% of those held out, of 3,000 of MNIST's (docs/images.md). ARG: the source."""

from ptft_jax import config as configs
from ptft_jax.model import presets


def get_config(source: str = "images:mnist") -> configs.Config:
    config = configs.default()
    config.model.update(**presets.images("vit", size=28, patch=4))
    config.model.update(layers=4, width=64, heads=4, channels=1, classes=10, scan=False, pooling="mean")
    config.objective.update(name="classification", label_smoothing=0.1)
    config.data.update(source=source, batch_size=64)
    config.data.augment.update(shift=2, turn=15.0, scale=0.15, mixup=0.2)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=0.1, weight_decay=0.05)
    config.training.update(steps=3000, ema_decay=0.99)
    config.eval.every = 500
    config.select.metric = "validation/accuracy"
    return config
