"""Tuning on questions about half of the world's people; the others are asked. ARG: the world's size (docs/world.md).

Needs a parent, of pretrain.py: --config.init.from=WORKDIR.
"""

from ptft_jax import config as configs


def get_config(size: str = "c") -> configs.Config:
    config = configs.default()
    config.data.update(source=f"world:questions?size={size}", length=64, batch_size=32)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=20, schedule="linear", end_ratio=0.0)
    config.training.steps = 300
    config.eval.update(every=100)
    config.eval.answers.update(verifiers=("exact",), records=300, max_new_tokens=3)
    return config
