"""Learning those of its own answers that are right (expert iteration). ARG: a source of prompts with right answers, such as jsonl:sums.jsonl.

Needs a parent that answers some of them rightly already: --config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. Only the best answer to
each prompt (RAFT): --config.objective.expert.keep=1. For pairs of them, see feedback/online_dpo.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "expert_iteration"
    config.objective.policy.update(verifiers=("exact",), samples=8, max_new_tokens=64)
    config.objective.expert.update(keep=4, duplicates="drop")
    config.data.update(source=source, length=256, batch_size=64, overlong="drop", untrainable="drop")
    config.tune.method = "lora"
    config.optimizer.update(learning_rate=1e-4, warmup_steps=5, schedule="constant", weight_decay=0.0)
    config.training.steps = 100
    config.eval.every = 20
    return config
