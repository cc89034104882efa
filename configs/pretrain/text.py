"""Pre-training from scratch on your own text, as bytes. ARG: a file or folder."""

from ptft_jax import config as configs
from ptft_jax.model import presets


def get_config(path: str) -> configs.Config:
    config = configs.default()
    config.model.update(**presets.family("gpt2"))
    config.model.update(layers=3, width=128, heads=4, max_length=128, scan=False)
    config.data.update(source=f"text:{path}", length=128, batch_size=16)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=10, b2=0.99)
    config.training.steps = 1000
    config.eval.update(every=100, tokens=50_000)
    config.select.patience = 5
    return config
