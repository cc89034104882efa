"""A model of text that learns what is said of images it sees: its projector alone, then all. ARG: STAGE[,SOURCE] (docs/images.md).

Needs a parent: --config.init.from=WORKDIR, of stage "project" what ptft combine --method=tower wrote, of stage "all" a run of stage "project".
"""

from ptft_jax import config as configs


def get_config(arg: str = "project") -> configs.Config:
    stage, _, source = arg.partition(",")
    config = configs.default()
    config.objective.name = "vision_lm"
    config.data.update(source=source or "images:letters?questions=yes", batch_size=64, length=128)
    config.data.augment.update(shift=2)
    if stage == "project":
        config.tune.rates = (("projector/.*", 1.0), (".*", 0.0))
    config.optimizer.update(learning_rate=5e-3 if stage == "project" else 3e-4, warmup_steps=0.1)
    config.training.steps = 800 if stage == "project" else 600
    config.eval.every = 100
    return config
