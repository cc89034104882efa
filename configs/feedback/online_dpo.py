"""DPO on pairs of the model's own answers (online DPO). ARG: a source of prompts with right answers, such as jsonl:sums.jsonl.

Needs a parent that answers some of them rightly already: --config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. What says which answer is
better: --config.objective.policy.verifiers=judge, reward_model or number.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "online_dpo"
    config.objective.policy.update(verifiers=("exact",), samples=4, max_new_tokens=64)
    config.tune.method = "lora"  # the reference is then the model without the adapter, and takes no memory of its own
    config.data.update(source=source, length=512, batch_size=16, overlong="drop", untrainable="drop")
    config.optimizer.update(learning_rate=1e-4, warmup_steps=5, schedule="constant", weight_decay=0.0)
    config.training.steps = 100
    config.eval.every = 20
    return config
