"""The whole config tree, joined from its sections, each of which is declared beside the code that reads it."""

from __future__ import annotations

from typing import Any

from ptft_jax.config.declare import Options, declared, fields_of, section
from ptft_jax.config.field import seed, texts
from ptft_jax.config.objectives import ObjectiveOptions
from ptft_jax.config.tune import TuneOptions
from ptft_jax.data.options import DataOptions, TokenizerOptions
from ptft_jax.evaluation.options import EvalOptions, SamplesOptions
from ptft_jax.model.spec import ModelSpec
from ptft_jax.optim.options import OptimizerOptions
from ptft_jax.parallel.options import ParallelOptions
from ptft_jax.reporting.options import LogOptions
from ptft_jax.rewards.options import RewardsOptions
from ptft_jax.runs.options import CheckpointOptions, InitOptions
from ptft_jax.tools.options import ToolsOptions
from ptft_jax.training.options import SelectOptions, TrainingOptions


class Config(Options):
    """A whole config. What `ptft_jax.config.default()` gives has this form; it is a ConfigDict."""

    plugins: tuple[str, ...] = declared(
        texts(
            (),
            "modules outside of the package with tables of objectives, methods and more that this config may name, see docs/plugins.md",
        )
    )
    seed: int = declared(seed(0, "parameters, order of the data and dropout follow from it"))
    init: InitOptions = section(InitOptions)
    model: ModelSpec = section(ModelSpec)
    tokenizer: TokenizerOptions = section(TokenizerOptions)
    data: DataOptions = section(DataOptions)
    objective: ObjectiveOptions = section(ObjectiveOptions)
    tune: TuneOptions = section(TuneOptions)
    optimizer: OptimizerOptions = section(OptimizerOptions)
    training: TrainingOptions = section(TrainingOptions)
    eval: EvalOptions = section(EvalOptions)
    select: SelectOptions = section(SelectOptions)
    samples: SamplesOptions = section(SamplesOptions)
    rewards: RewardsOptions = section(RewardsOptions)
    tools: ToolsOptions = section(ToolsOptions)
    checkpoint: CheckpointOptions = section(CheckpointOptions)
    parallel: ParallelOptions = section(ParallelOptions)
    log: LogOptions = section(LogOptions)


TREE: dict[str, Any] = fields_of(Config)

# Settings that say how a run is carried out, not what it computes: a run may be continued with others.
HOW = (
    *("parallel.", "training.micro_batches", "data.prefetch", "data.workers", "log.", "checkpoint.", "eval.metrics"),
    *("objective.policy.max_mismatch", "rewards.judge.unscored", "rewards.reward_model.unscored"),
    *("rewards.ensemble.unscored", "rewards.process_reward.unscored"),
)
