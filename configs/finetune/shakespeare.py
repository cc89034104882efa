"""Specializing a model on little text: the first 40,000 tokens of Shakespeare's histories. ARG: full, frozen or lora.

Needs a parent: --config.init.from=WORKDIR.
"""

from ptft_jax import config as configs

METHODS = {
    # what trains, and the peak learning rate it wants
    "full": ((), 1e-3),
    "frozen": ((("blocks[-1]/.*", 1.0), ("final_norm/.*", 1.0), (".*", 0.0)), 2e-3),
    "lora": ((), 5e-3),
}


def get_config(method: str = "full") -> configs.Config:
    rates, learning_rate = configs.choose(METHODS, method, "method")
    config = configs.default()
    config.tune.update(method="lora" if method == "lora" else "full", rates=rates)
    config.model.scan = False  # faster on a CPU at this depth
    config.data.update(source="shakespeare:histories", train_tokens=40_000)
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=10, b2=0.99)
    config.training.steps = 200
    config.eval.update(every=20, tokens=20_000)
    config.select.patience = 3
    config.samples.update(prompts=("**KING HENRY**\n", "## ACT"), max_new_tokens=48)
    return config
