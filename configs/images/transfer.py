"""A model of images that learns other classes, with a new head. ARG: the source, such as images:FOLDER (docs/images.md).

Needs a parent: --config.init.from=WORKDIR, and --config.model.classes=N.
"""

from ptft_jax import config as configs


def get_config(source: str = "images:digits") -> configs.Config:
    config = configs.default()
    config.init.fresh = ("head/.*",)
    config.model.update(head="classes", classes=10, dropout=0.1, scan=False)
    config.objective.update(name="classification", label_smoothing=0.1)
    config.data.update(source=source, batch_size=64)
    config.tune.layer_decay = 0.75
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0.1, weight_decay=0.05)
    config.training.steps = 300
    config.eval.update(every=50, parent_data=False)
    config.select.metric = "validation/accuracy"
    return config
