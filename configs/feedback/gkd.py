"""Learning from a teacher on its own answers (on-policy distillation, GKD). ARG: a source of prompts with answers, such as jsonl:chat.jsonl.

Needs a parent that writes (--config.init.from=WORKDIR, hf:FOLDER or gguf:FILE) and a teacher with the same tokenizer:
--config.objective.distill.teacher=RUN. With --config.objective.name=sdft the teacher is the parent, which is shown the answers.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "gkd"
    config.objective.policy.max_new_tokens = 64
    config.objective.distill.divergence = "reverse_kl"
    config.data.update(source=source, length=256, batch_size=16, overlong="drop", untrainable="drop")
    config.optimizer.update(learning_rate=5e-5, warmup_steps=10, schedule="cosine")
    config.training.steps = 200
    config.eval.update(every=40, tokens=20_000)
    return config
