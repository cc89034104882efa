"""What settings are called in other tools (transformers' Trainer, PEFT, TRL, nanoGPT, Lightning, ...): for the advice that an
unknown setting gets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ptft_jax.errors import nearest

# Setting -> its names elsewhere, in lower case. Of two settings that have a name, the first that is declared counts.
_NAMES = {
    "optimizer.learning_rate": "lr base_lr max_lr peak_lr init_lr",
    "optimizer.end_ratio": "min_lr end_lr final_lr min_lr_ratio",
    "optimizer.schedule": "lr_scheduler_type lr_scheduler scheduler lr_schedule decay_lr",
    "optimizer.warmup_steps": "warmup warmup_ratio warmup_iters num_warmup_steps warmup_fraction lr_warmup_steps",
    "optimizer.weight_decay": "wd decay",
    "optimizer.b1": "beta1 adam_beta1 betas",
    "optimizer.b2": "beta2 adam_beta2",
    "optimizer.eps": "epsilon adam_epsilon adam_eps",
    "optimizer.clip_norm": "max_grad_norm grad_clip clip_grad clip_grad_norm gradient_clip_val gradient_clip gradient_clipping",
    "optimizer.name": "optim optimizer_name",
    "training.epochs": "epochs num_epochs num_train_epochs n_epochs",
    "training.steps": "epochs num_epochs num_train_epochs n_epochs max_steps num_steps total_steps train_steps num_train_steps "
    "max_iters iters iterations n_steps",
    "training.micro_batches": "grad_accum grad_accumulation gradient_accumulation gradient_accumulation_steps grad_accum_steps "
    "grad_accumulation_steps accumulate_grad_batches accumulation_steps",
    "training.ema_decay": "ema use_ema",
    "data.batch_size": "batch_size bs per_device_train_batch_size per_device_batch_size train_batch_size micro_batch_size global_batch_size "
    "device_batch_size per_gpu_train_batch_size batchsize",
    "eval.batch_size": "per_device_eval_batch_size eval_batch_size",
    "data.length": "block_size seq_len seq_length max_seq_length max_seq_len sequence_length sequence_len context_length "
    "context_len cutoff_len ctx_len n_ctx",
    "data.source": "dataset dataset_name dataset_path data_path data_files data_dir train_file train_data training_data",
    "data.workers": "num_workers dataloader_num_workers dataset_num_proc num_proc preprocessing_num_workers",
    "data.template": "chat_template",
    "data.train_on": "assistant_only_loss completion_only_loss train_on_inputs",
    "model.layers": "n_layer n_layers num_layers num_hidden_layers depth",
    "model.heads": "n_head n_heads num_heads num_attention_heads",
    "model.kv_heads": "n_kv_head n_kv_heads num_kv_heads num_key_value_heads",
    "model.width": "n_embd d_model hidden_size hidden_dim embed_dim embedding_dim emb_dim dim",
    "model.mlp_width": "n_inner d_ff ffn_dim intermediate_size mlp_dim",
    "model.max_length": "max_position_embeddings n_positions",
    "model.tied": "tie_word_embeddings tie_embeddings weight_tying",
    "model.dtype": "bf16 fp16 half precision mixed_precision torch_dtype compute_dtype amp",
    "model.remat": "gradient_checkpointing activation_checkpointing use_gradient_checkpointing checkpointing",
    "model.attention": "attn_implementation flash_attention use_flash_attention",
    "model.classes": "num_labels num_classes",
    "objective.center": "center_rewards_coefficient",
    "init.from_": "model_name_or_path model_name model_path base_model pretrained from_pretrained pretrained_model init_checkpoint",
    "tokenizer.path": "tokenizer_name tokenizer_path tokenizer_name_or_path",
    "tune.lora.rank": "lora_r lora_rank r",
    "tune.lora.alpha": "lora_alpha",
    "tune.lora.dropout": "lora_dropout",
    "tune.lora.targets": "target_modules lora_target lora_target_modules",
    "tune.lora.dora": "use_dora",
    "tune.lora.rank_stabilized": "use_rslora rslora",
    "tune.quantize.format": "load_in_4bit load_in_8bit quantization",
    "tune.train": "freeze freeze_layers trainable",
    "checkpoint.every": "save_steps save_every save_interval save_freq ckpt_every checkpoint_every checkpoint_interval",
    "checkpoint.keep_latest": "save_total_limit keep_last_n keep_checkpoints max_to_keep",
    "eval.every": "eval_steps eval_every eval_interval val_interval validation_interval val_check_interval eval_strategy "
    "evaluation_strategy",
    "select.metric": "metric_for_best_model monitor",
    "select.mode": "greater_is_better",
    "select.patience": "early_stopping_patience early_stopping",
    "log.every": "logging_steps log_steps log_every log_interval logging_interval print_every",
    "log.trackers": "report_to logger wandb use_wandb",
    "objective.label_smoothing": "label_smoothing_factor",
    "seed": "random_seed rng_seed manual_seed data_seed",
}  # fmt: skip
# What is no setting here.
_OTHERWISE = {
    "output_dir out_dir save_dir run_dir workdir default_root_dir": "the folder of a run is the flag --workdir",
    "resume resume_from_checkpoint": "the same command, or --workdir alone, continues a run",
    "load_best_model_at_end": "a run's name alone is its best checkpoint",
    "cuda gpus n_gpu num_gpus no_cuda accelerator": "all devices that JAX finds are used",
}
# Where a value means something else than there.
_NOTES = {
    "optimizer.end_ratio": "a share of the rate",
    "training.steps": "updates",
    "training.micro_batches": "it divides data.batch_size",
    "data.batch_size": "rows per update, over all devices and micro-batches",
    "model.dtype": "'bfloat16' or 'float32'",
    "model.remat": "a policy, not a switch",
}


def of_others(name: str) -> bool:
    """Whether a name is one of another tool's."""
    return any(name.lower() in names.split() for names in (*_NAMES.values(), *_OTHERWISE))


def advice(name: str, valid: Iterable[str]) -> str:
    """' (did you mean X?)' for an unknown setting, a dotted path or its last part: what another tool calls so, with its section
    (eval.steps as eval_steps) or without; else a setting with the same last part; else one that is spelled alike; '' where there
    is none.

    Args:
      valid: the paths of the settings that there are.
    """
    valid, name = list(valid), name.replace("-", "_")
    if name in valid:
        return f" (did you mean {name!r}?)"
    last = name.rpartition(".")[2]
    for one in dict.fromkeys((name.replace(".", "_").lower(), last.lower())):
        for names, said in _OTHERWISE.items():
            if one in names.split():
                return f" ({said})"
        for path, names in _NAMES.items():
            if path in valid and one in names.split():
                note = f"; {_NOTES[path]}" if path in _NOTES else ""
                return f" (did you mean {path.rstrip('_')!r}?{note})"
    same = [path for path in valid if path.rpartition(".")[2] == last]
    if same:
        alike = difflib.get_close_matches(name, same, n=len(same), cutoff=0.0)
        return f" (did you mean {min(alike, key=lambda path: path.count('.'))!r}?)"
    return nearest(name, valid)
