"""What another tool calls a setting is answered with ours, wherever it is given."""

import pytest

from ptft_jax import config as configs
from ptft_jax.config import files, other_names
from ptft_jax.errors import UserError

PATHS = [path for path, _ in configs.fields()]
KNOWN = {  # by hand, from the documentation of transformers, PEFT, TRL, nanoGPT and Lightning
    "lr": "optimizer.learning_rate", "bf16": "model.dtype", "fp16": "model.dtype", "grad_accum": "training.micro_batches",
    "gradient_accumulation_steps": "training.micro_batches", "gradient_checkpointing": "model.remat",
    "max_steps": "training.steps", "per_device_train_batch_size": "data.batch_size", "warmup_ratio": "optimizer.warmup_steps",
    "lora_r": "tune.lora.rank", "lora_alpha": "tune.lora.alpha", "block_size": "data.length", "n_layer": "model.layers",
    "n_head": "model.heads", "n_embd": "model.width", "save_steps": "checkpoint.every", "eval_steps": "eval.every",
    "logging_steps": "log.every", "max_grad_norm": "optimizer.clip_norm", "adam_beta2": "optimizer.b2",
    "lr_scheduler_type": "optimizer.schedule", "model_name_or_path": "init.from", "num_labels": "model.classes",
    # with dashes; the batch of training is data.batch_size, whatever section it is looked for in
    "batch_size": "data.batch_size", "gradient-accumulation-steps": "training.micro_batches", "learning-rate": "optimizer.learning_rate",
    # ours, in another section
    "learning_rate": "optimizer.learning_rate", "weight_decay": "optimizer.weight_decay", "dtype": "model.dtype",
    "warmup_steps": "optimizer.warmup_steps", "training.seed": "seed", "model.schedule": "optimizer.schedule",
}  # fmt: skip


@pytest.mark.parametrize("theirs", KNOWN)
def test_a_name_of_another_tool(theirs):
    for name in (theirs, f"training.{theirs}", f"model.{theirs}"):
        assert f"(did you mean {KNOWN[theirs]!r}?" in other_names.advice(name, PATHS), name


@pytest.mark.parametrize(
    "given, said",
    [
        ("eval.steps", "'eval.every'"), ("save.steps", "'checkpoint.every'"), ("logging.steps", "'log.every'"),
        ("eval.batch-size", "'eval.batch_size'"), ("output-dir", "--workdir"), ("training.output-dir", "--workdir"),
        ("lora.r", "'tune.lora.rank'"), ("train.data", "'data.source'"),
    ],
)  # fmt: skip
def test_a_name_that_is_divided_otherwise(given, said):
    assert said in other_names.advice(given, PATHS)


def test_it_is_said_wherever_a_setting_is_given(tmp_path):
    with pytest.raises(UserError, match="config.lr is not a setting .did you mean 'optimizer.learning_rate'"):
        configs.check({"lr": 1e-3})
    with pytest.raises(UserError, match="config.training.lr is not a setting .did you mean 'optimizer.learning_rate'"):
        configs.check({"training": {"lr": 1e-3}})
    path = tmp_path / "mine.py"
    for line in ("config.lr = 1", "config.training.lr = 1", "config.model.n_embd = 8"):
        name, ours = ("n_embd", "model.width") if "embd" in line else ("lr", "optimizer.learning_rate")
        path.write_text(
            f"from ptft_jax import config as c\n\ndef get_config():\n    config = c.default()\n    {line}\n    return config\n"
        )
        with pytest.raises(UserError, match=f"mine.py:5: {name} is not a setting .did you mean '{ours}'"):
            files.load(str(path))
    assert "--workdir" in other_names.advice("output_dir", PATHS)


def test_every_answer_is_a_setting_and_no_name_is_one():
    """A name that stands for a setting that is not there (any more) would never be answered."""
    ours = {path for path, names in other_names._NAMES.items() if path not in PATHS}
    assert ours <= {"training.epochs"}, ours
    top = {path for path in PATHS if "." not in path}
    assert not top & {name for names in other_names._NAMES.values() for name in names.split()}
