"""Learning what a teacher predicts (distillation). ARG: a source of texts, answers or chats, such as jsonl:answers.jsonl.

Needs a teacher with the same tokenizer: --config.objective.distill.teacher=RUN, hf:FOLDER or gguf:FILE; without one it is the parent
itself, which holds the run near what it was. A parent (--config.init.from=RUN) is best, but not needed.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.name = "distill"
    config.data.update(source=source, length=512, batch_size=8)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=10, schedule="cosine")
    config.training.steps = 200
    config.eval.update(every=40, tokens=20_000)
    return config
