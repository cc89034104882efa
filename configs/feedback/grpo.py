"""Learning from rewards of the model's own answers (GRPO). ARG: a source of prompts with right answers, such as jsonl:sums.jsonl.

Needs a parent that answers some of them rightly already: --config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. What rewards answers:
--config.objective.policy.verifiers=number. Other estimators: --config.objective.name=rloo, reinforce.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "grpo"
    config.objective.policy.update(verifiers=("exact",), samples=8, max_new_tokens=64)
    config.data.update(source=source, length=256, batch_size=64, overlong="drop", untrainable="drop")
    config.tune.method = "lora"
    config.optimizer.update(learning_rate=1e-4, warmup_steps=5, schedule="constant", weight_decay=0.0)
    config.training.steps = 100
    config.eval.every = 20
    return config
