"""A process reward model, from answers whose steps are right or wrong. ARG: a source of them, such as jsonl:steps.jsonl.

Needs a parent, a language model: --config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. Its scores of tokens give way to one number,
read off the token that ends a step.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "process_reward"
    config.model.update(head="classes", classes=1)
    config.init.fresh = ("head/.*",)
    config.tune.method = "lora"
    config.data.update(source=source, length=1024, batch_size=8, overlong="drop", untrainable="drop")
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5, schedule="linear", end_ratio=0.0, weight_decay=0.0)
    config.training.steps = 100
    config.eval.update(every=20, parent_data=False)
    return config
