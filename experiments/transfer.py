"""What does pre-training buy, and what does fine-tuning cost?

Pre-trains a small GPT on Shakespeare's plays without the histories, then specialises it on little data four ways (from
scratch, full, frozen subset, low-rank), on a near target (plays about the Wars of the Roses) and a far one (Python
code), and with a learning rate 100 times too high. Writes results.json and report.html.

  python -m experiments.transfer --out=runs/demo
"""

from __future__ import annotations

import os
import sys

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.launch import TERMINATED, launch, prepare_jax

TARGETS = {"roses": "shakespeare:roses", "code": "stdlib:code"}
METHODS = ("scratch", "full", "frozen", "lora")
RATES = {"scratch": 3e-3, "full": 1e-3, "frozen": 2e-3, "lora": 5e-3}
TOO_HIGH = 100


def define() -> None:
    flags.DEFINE_string("out", "runs/demo", "Folder of the experiment.")
    flags.DEFINE_integer("seeds", 3, "Second-stage runs of each kind, with other seeds.", lower_bound=2)
    flags.DEFINE_enum("size", "demo", ["demo", "tiny"], "demo: minutes on two CPU cores; tiny: only to see it run.")


def base_config(size: str):
    """Pre-training: general text."""
    from configs.pretrain import shakespeare

    config = shakespeare.get_config("small" if size == "demo" else "tiny")
    config.model.scan = False
    if size == "demo":
        config.training.steps, config.optimizer.warmup_steps, config.eval.every = 900, 90, 150
    return config


def tune_config(size: str, base: str, target: str, method: str, seed: int, factor: float = 1.0):
    """The second stage: 30,000 tokens of a target, by a method, at `factor` times the method's rate."""
    from configs.finetune import shakespeare

    config = shakespeare.get_config("full" if method == "scratch" else method)
    demo = size == "demo"
    config.seed = seed
    config.data.update(source=TARGETS[target], train_tokens=30_000, batch_size=8, length=128 if demo else 64)
    steps = (160 if method == "scratch" else 80) if demo else 8
    config.training.steps = steps
    config.optimizer.update(learning_rate=RATES[method] * factor, warmup_steps=steps // 8)
    config.eval.update(every=10 if demo else 4, tokens=10_000 if demo else 1_000)
    config.samples.prompts = ("**KING HENRY**\n",) if target == "roses" else ("def read(self",)
    if method == "scratch":  # the same model and tokens, but random parameters
        pretrain = base_config(size)
        config.model.update(pretrain.model)
        config.tokenizer.update(kind="file", path=base)
    else:
        config.init.from_ = f"{base}@best"
    if factor != 1.0:  # to the end: what is looked at is what such a rate does, not what early stopping saves
        config.select.patience = 0
    return config


def main() -> int:
    args = flags.FLAGS
    if not os.path.isdir("configs"):
        raise UserError("run this from the top folder of the project: configs/ is not here")
    sys.path.insert(0, os.getcwd())
    prepare_jax()
    from experiments import transfer_report
    from ptft_jax.experiment import Experiment, Interrupted
    from ptft_jax.reporting.progress import Reporter

    reporter = Reporter()
    experiment = Experiment(args.out, reporter)
    summaries = {}
    try:
        with reporter:
            experiment.expect(1 + args.seeds * (len(TARGETS) * len(METHODS) + 1))
            base = str(experiment.workdir("base"))
            summaries["base"] = experiment.run("base", base_config(args.size))
            for target in TARGETS:
                for method in METHODS:
                    for seed in range(args.seeds):
                        name = f"{target}-{method}-seed{seed}"
                        config = tune_config(args.size, base, target, method, seed)
                        summaries[name] = experiment.run(name, config)
            for seed in range(args.seeds):
                name = f"roses-too_high-seed{seed}"
                config = tune_config(args.size, base, "roses", "full", seed, TOO_HIGH)
                summaries[name] = experiment.run(name, config)
    except Interrupted as e:
        reporter.say(f"stopped by {e}; the same command continues")
        return TERMINATED
    transfer_report.write(experiment, summaries, seeds=args.seeds)
    return 0


if __name__ == "__main__":
    launch(define, main)
