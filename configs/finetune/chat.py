"""Fine-tuning on conversations, or prompts and answers, of your own. ARG: a source, such as jsonl:chat.jsonl.

Needs a parent: --config.init.from=gguf:smollm2, hf:FOLDER or a workdir; one whose tokenizer has no chat template needs
--config.data.template as well. Where what ends a turn of that is no token of the parent's, its markers become tokens, whose
embeddings train beside the adapter.
"""

from ptft_jax import config as configs


def get_config(source: str) -> configs.Config:
    config = configs.default()
    config.tune.update(method="lora")
    config.data.update(source=source, length=512, batch_size=8)
    config.tokenizer.add_markers = True
    config.optimizer.update(learning_rate=5e-4, warmup_steps=5, schedule="linear", end_ratio=0.0, weight_decay=0.0)
    config.training.steps = 200
    config.eval.update(every=25, tokens=20_000)
    config.select.patience = 4
    return config
