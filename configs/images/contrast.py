"""Two towers that learn which caption belongs to an image, as CLIP does. ARG: the source, such as images:list.csv (docs/images.md)."""

from ptft_jax import config as configs
from ptft_jax.model import presets


def get_config(source: str = "images:letters") -> configs.Config:
    config = configs.default()
    config.model.update(**presets.images("clip", size=28, patch=4))
    config.model.update(layers=4, width=128, heads=4, channels=1, vector_width=64, scan=False)
    config.model.update(text_layers=2, text_width=64, text_heads=4, text_length=40)
    config.objective.name = "clip"
    config.data.update(source=source, batch_size=128)
    config.data.augment.update(shift=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0.05, weight_decay=0.05)
    config.training.steps = 1000
    config.eval.every = 200
    config.select.metric = "validation/text_recall_1"
    return config
