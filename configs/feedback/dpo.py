"""Learning from pairs of answers of which one is better (DPO). ARG: a source of pairs, such as jsonl:pairs.jsonl.

Needs a parent that writes such answers already, best one that was fine-tuned on the chosen ones:
--config.init.from=WORKDIR, hf:FOLDER or gguf:smollm2. Another loss: --config.objective.name=simpo.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.objective.update(name="dpo", chunk=64)  # the reference's logits of all positions would take much memory
    config.tune.method = "lora"  # the reference is then the model without the adapter, and takes no memory of its own
    config.data.update(source=source, length=512, batch_size=4, untrainable="drop")
    config.optimizer.update(learning_rate=1e-4, warmup_steps=5, schedule="linear", end_ratio=0.0, weight_decay=0.0)
    config.training.steps = 100
    config.eval.update(every=20, tokens=20_000)
    return config
