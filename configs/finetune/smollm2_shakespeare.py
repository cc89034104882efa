"""SmolLM2-135M-Instruct (from a wheel on PyPI) on three plays of Shakespeare, in minutes on two CPU cores. ARG: lora or full.

Forgetting is measured on the standard library's docstrings, which the model wrote well before.
"""

from ptft_jax import config as configs

METHODS = {
    # what trains, and its peak learning rate
    "lora": ("lora", 1e-3),
    "full": ("full", 3e-5),
}


def get_config(method: str = "lora") -> configs.Config:
    name, learning_rate = configs.choose(METHODS, method, "method")
    config = configs.default()
    config.init.from_ = "gguf:smollm2"
    config.tune.method = name
    config.data.update(source="shakespeare:roses", length=128, batch_size=4)
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=4, weight_decay=0.0)
    config.training.steps = 32
    config.eval.update(every=16, tokens=2048, source="stdlib:prose")
    config.samples.update(prompts=("**KING HENRY VI**\n", "The weather today is"), max_new_tokens=32)
    return config
