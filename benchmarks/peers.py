"""What a user would pick instead, as sides of a comparison: plain PyTorch, transformers, its Trainer, PEFT and TRL.

Each trains the model of a `Case` from the weights of ours, by AdamW with the same settings and clipping.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.cases import Case

ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
PARTS = {
    "self_attn.q_proj": "attention/query", "self_attn.k_proj": "attention/key", "self_attn.v_proj": "attention/value",
    "self_attn.o_proj": "attention/out", "mlp.gate_proj": "mlp/gate", "mlp.up_proj": "mlp/up", "mlp.down_proj": "mlp/down",
}  # fmt: skip


@dataclasses.dataclass
class Side:
    """One way to train a case.

    Attributes:
      step: makes one training step, and returns its loss, which may not be there yet.
      read: the loss as a number, once it is there.
      logits: of the first row, before anything was trained, [T, V], or [classes].
    """

    step: Callable[[], Any]
    read: Callable[[Any], float]
    logits: np.ndarray


def absent(case: Case) -> dict[str, str]:
    """Peers that this machine lacks -> why, in words."""
    return {name: why for name, (needs, _) in known(case).items() if (why := lacks(needs))}


def known(case: Case) -> dict[str, tuple[tuple[str, ...], Callable[..., Side]]]:
    """Peers of a case by name: what each needs, and what makes its side from the case, our parameters and what is learned
    (`benchmarks.training.ours`)."""
    if case.pictured:
        from benchmarks import image_peers

        return image_peers.known()
    if "kv_heads" not in case.model:
        return {
            "PyTorch": (("torch",), _plain),
            "PyTorch, compiled": (("torch", "a C++ compiler"), functools.partial(_plain, compiled=True)),
        }
    plain = ("torch", "transformers") + (("peft",) if case.lora else ())
    name = "PEFT" if case.lora else "transformers"
    return {
        name: (plain, _transformers),
        f"{name}, compiled": ((*plain, "a C++ compiler"), functools.partial(_transformers, compiled=True)),
        "transformers Trainer": ((*plain, "accelerate"), functools.partial(_by_trainer, kind="transformers")),
        "TRL SFTTrainer": ((*plain, "trl", "datasets"), functools.partial(_by_trainer, kind="trl")),
    }


def lacks(needs: tuple[str, ...]) -> str:
    """Why this machine lacks one of these, in words; "" where all are there."""
    for name in needs:
        if name == "a C++ compiler":
            if not any(map(shutil.which, ("g++", "clang++", "c++"))):
                return "torch.compile needs a C++ compiler, and none is here"
        elif importlib.util.find_spec(name) is None:
            return f"the package {name} is not installed: pip install 'ptft_jax[bench]'"
    return ""


def _learned(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.requires_grad]


def groups(model: Any) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not: as `optimizer.decay_rules` has it by default."""
    learned = _learned(model)
    matrices, vectors = ([p for p in learned if (p.squeeze().ndim > 1) == wide] for wide in (True, False))
    found = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in found if group["params"]]


def side(model: Any, loss_of: Callable[[], Any], logits: Any) -> Side:
    """A model's step by hand, as PyTorch's tutorials have it."""
    import torch

    optimizer = torch.optim.AdamW(groups(model), **ADAMW, fused=True)
    learned = _learned(model)

    def step() -> Any:
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        return loss.detach()

    with torch.no_grad():
        first = logits().float().cpu().numpy()
    return Side(step, float, first)


def gpt(case: Case) -> Any:
    """A plain GPT-2-like model, with PyTorch's fused attention."""
    from benchmarks import torch_gpt

    return torch_gpt.GPT(**case.shape, fused=True)


def _plain(case: Case, params: Mapping[str, np.ndarray], tokens: np.ndarray, compiled: bool = False) -> Side:
    import torch
    from torch.nn import functional as F

    from benchmarks import torch_gpt

    model, rows = gpt(case), torch.tensor(tokens).long()
    torch_gpt.load(model, params)

    def loss() -> Any:
        return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    return side(model, torch.compile(loss) if compiled else loss, lambda: model(rows[:1, :-1])[0])


def llama(case: Case) -> Any:
    """transformers' Llama of a case's sizes, its adapters by PEFT."""
    import transformers

    shape, model = case.shape, case.model
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=model["kv_heads"],
        intermediate_size=model["mlp_width"],
        max_position_embeddings=shape["length"],
        rope_parameters={"rope_type": "default", "rope_theta": model["rope_theta"]},
        rms_norm_eps=1e-5,
        tie_word_embeddings=model.get("tied", True),
        attn_implementation="sdpa",
        use_cache=False,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def with_peft(case: Case, base: Any) -> Any:
    import peft

    return peft.get_peft_model(
        base, peft.LoraConfig(r=case.lora, lora_alpha=2 * case.lora, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def loaded_llama(case: Case, params: Mapping[str, np.ndarray]) -> Any:
    """`llama`, with our weights and the same adapters."""
    import torch

    model = llama(case)
    values = {
        "model.embed_tokens.weight": params["embed/tokens/embedding"],
        "model.norm.weight": params["final_norm/scale"],
    }
    if not case.model.get("tied", True):
        values["lm_head.weight"] = params["head/kernel"].T
    for i in range(case.shape["layers"]):
        at = f"model.layers.{i}"
        values[f"{at}.input_layernorm.weight"] = params["blocks/attention_norm/scale"][i]
        values[f"{at}.post_attention_layernorm.weight"] = params["blocks/mlp_norm/scale"][i]
        for theirs, ours in PARTS.items():
            values[f"{at}.{theirs}.weight"] = params[f"blocks/{ours}/kernel"][i].T
    tensors = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in values.items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    if not case.lora:
        return model
    model = with_peft(case, model)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            layer, part = name.split(".layers.")[1].split(".lora_")[0].split(".", 1)
            kept = params[f"blocks/{PARTS[part]}/adapter/lora_{'a' if '.lora_A.' in name else 'b'}"][int(layer)]
            parameter.data.copy_(torch.tensor(np.ascontiguousarray(kept.T)))
    return model


def _transformers(case: Case, params: Mapping[str, np.ndarray], tokens: np.ndarray, compiled: bool = False) -> Side:
    import torch

    model, rows = loaded_llama(case, params), torch.tensor(tokens)[:, :-1].contiguous().long()
    run = torch.compile(model) if compiled else model
    return side(model, lambda: run(input_ids=rows, labels=rows).loss, lambda: model(input_ids=rows[:1]).logits[0])


def _by_trainer(case: Case, params: Mapping[str, np.ndarray], tokens: np.ndarray, kind: str) -> Side:
    import torch

    model, rows = loaded_llama(case, params), torch.tensor(tokens)[:, :-1].contiguous().long()
    options = trainer_options(case.rows)
    trainer = _transformers_trainer(model, options) if kind == "transformers" else _trl_trainer(model, options, rows)
    with torch.no_grad():
        first = model(input_ids=rows[:1]).logits[0].numpy()
    batch = {"input_ids": rows, "labels": rows}
    if kind == "trl":  # as its collator has it
        batch["attention_mask"] = torch.ones_like(rows)
    return Side(trainer_step(trainer, batch), float, first)


def trainer_options(rows: int) -> dict[str, Any]:
    """Arguments of a trainer of transformers or TRL: `ADAMW` at a constant rate, and nothing written."""
    import tempfile

    return dict(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=rows,
        max_steps=10**6,
        learning_rate=ADAMW["lr"],
        adam_beta2=ADAMW["betas"][1],
        weight_decay=ADAMW["weight_decay"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        bf16=False,
    )


def trainer_step(trainer: Any, batch: Mapping[str, Any]) -> Callable[[], Any]:
    """What `Trainer.train` does between two batches: `training_step`, clipping, the optimizer and the schedule."""
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # which `train` sets
    prepared, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)

    def step() -> Any:
        loss = trainer.training_step(prepared, dict(batch))
        trainer.accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        trainer.lr_scheduler.step()
        prepared.zero_grad()
        return loss

    return step


def _transformers_trainer(model: Any, options: dict[str, Any]) -> Any:
    import transformers

    return transformers.Trainer(model=model, args=transformers.TrainingArguments(**options))


def _trl_trainer(model: Any, options: dict[str, Any], rows: Any) -> Any:
    import datasets
    import trl

    data = datasets.Dataset.from_dict({"input_ids": rows.tolist()})
    args = trl.SFTConfig(**options, max_length=rows.shape[1], gradient_checkpointing=False)
    return trl.SFTTrainer(model=model, args=args, train_dataset=data, processing_class=two_words())


def two_words() -> Any:
    """A tokenizer, which TRL's trainers ask for."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="a", eos_token="b", unk_token="a")
