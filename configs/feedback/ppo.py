"""Learning from rewards of the model's own answers, with a value head (PPO). ARG: a source of prompts with right answers, such as
jsonl:sums.jsonl.

Needs a parent that answers some of them rightly already: --config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. What rewards answers:
--config.objective.policy.verifiers=number. The divergence from the parent is taken off the reward of each token.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "ppo"
    config.objective.policy.update(verifiers=("exact",), samples=1, max_new_tokens=64, updates=4, average="token")
    config.objective.policy.update(kl=0.05, kl_estimator="k1", value_rate=10.0)
    config.data.update(source=source, length=256, batch_size=64, overlong="drop", untrainable="drop")
    config.tune.method = "lora"
    config.optimizer.update(learning_rate=1e-4, warmup_steps=5, schedule="constant", weight_decay=0.0)
    config.training.steps = 100
    config.eval.every = 20
    return config
