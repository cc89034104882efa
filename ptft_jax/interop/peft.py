"""Adapters in the format of Hugging Face PEFT: a folder with adapter_config.json and adapter_model.safetensors.

LoRA, also of embeddings, rsLoRA, DoRA, IA3, OFT, ShiRA, MiSS, GraLoRA, HiRA, BD-LoRA, OSF, prompts, prefixes and gated prefixes,
in both directions; AdaLoRA, VeRA and
LoRA of other starts are written, and PEFT's AdaLoRA and VeRA are read, as the plain LoRA that does the same; P-tuning is read as
the prompt that it made. Theirs
names modules of a Hugging Face model, so the name map of its family is needed; a module that is fused there (GPT-2's c_attn)
is several layers of ours.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.base import Method
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.hira import Hira
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.low_rank import LowRankMethod
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.shira import Shira
from ptft_jax.data import jsons
from ptft_jax.data.cache import write_atomic
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.interop import peft_blocks, peft_context, peft_converted, peft_layers, peft_saved
from ptft_jax.interop.names import Tensor
from ptft_jax.interop.peft_modules import ROOT, modules, named, selected
from ptft_jax.interop.peft_tables import of_tied_head, tied_heads, without_copies
from ptft_jax.params.rules import flatten, unflatten

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What a config says about itself, and what matters only while an adapter is made. fan_in_fan_out is about the base's
# layout, which the name map knows; an adapter's own tensors do not depend on it.
_NOTES = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    "fan_in_fan_out", "eva_config", "init_ia3_weights", "megatron_core", "qalora_group_size", "tokenizer_kwargs",
    "prompt_tuning_init_text", "tokenizer_name_or_path", "init_weights", "d_initial", "save_projection", "projection_prng_key",
    "mask_type", "random_seed", "target_svd_config", "mini_r",
    *("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
}  # fmt: skip
_SELECTION = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_LORA = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights",
    "bias", "ensure_weight_tying", "use_bdlora",
}  # fmt: skip
_VIRTUAL = {"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}
_ENCODER = {  # of a network that PEFT keeps to itself: its files have what it made
    "encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "encoder_reparameterization_type", "prefix_projection",
}  # fmt: skip
_READ = {
    "LORA": _SELECTION | _LORA,
    "ADALORA": _SELECTION | {"r", "lora_alpha", "lora_dropout", "rank_pattern", "init_lora_weights", "bias"},
    "VERA": _SELECTION | {"r", "vera_dropout", "bias"},
    "IA3": _SELECTION | {"feedforward_modules"},
    "OFT": _SELECTION | {"oft_block_size", "num_cayley_neumann_terms", "eps", "bias"},
    "SHIRA": {"target_modules", "r"},
    "MISS": _SELECTION | {"r", "miss_dropout", "bias"},
    "GRALORA": _SELECTION | {"r", "alpha", "gralora_dropout", "gralora_k", "hybrid_r", "bias"},
    "HIRA": _SELECTION | {"r", "hira_dropout", "rank_pattern"},
    "OSF": {"target_modules", "effective_rank", "rank_pattern"},
    "PROMPT_TUNING": _VIRTUAL | {"prompt_tuning_init"},
    "P_TUNING": _VIRTUAL | _ENCODER,
    "PREFIX_TUNING": _VIRTUAL | _ENCODER,
    "ADAPTION_PROMPT": {"target_modules", "adapter_len", "adapter_layers"},
}
_TYPES = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern"), (str, list)),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (dict,)),
    "layers_to_transform": (int, list), "lora_dropout": (int, float), "base_model_name_or_path": (str,),
}  # fmt: skip
# Ways to start that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ ...) train on a changed base.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")


class Adapter(NamedTuple):
    """An adapter that was read.

    Attributes:
      tune: what `config.tune` must say for a model with it: {"method": ..., that method's section}.
      params: nested dict of the adapter's leaves alone, numpy arrays in the dtypes that a model with it has.
      base: the model it was made for, as its file names it ("" where it does not).
      replaced: nested dict of the base's parameters, whole, that it came with others for (`ptft_jax.interop.peft_saved`).
    """

    tune: dict[str, Any]
    params: dict[str, Any]
    base: str
    replaced: dict[str, Any]

    @property
    def method(self) -> Method:
        """The fine-tuning method that `tune` describes, for `ptft_jax.model.transformer.Transformer`."""
        return adapters.build(configs.check({"tune": self.tune}).tune)

    def onto(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """A plain model's parameters by path with what the adapter adds and replaces; what it replaces in their dtypes."""
        replaced = {path: np.asarray(a).astype(plain[path].dtype) for path, a in flatten(self.replaced).items()}
        return {**plain, **replaced, **flatten(self.params)}


def read(
    folder: str | pathlib.Path,
    names: Sequence[Tensor],
    base: Mapping[str, Any],
    *,
    prefix: str = "",
    ties: Mapping[str, str] | None = None,
    arrays: Callable[[], Mapping[str, Any]] | None = None,
    field: str = "",
) -> Adapter:
    """Reads an adapter for the model with the parameters `base`.

    A layer of the stack that the adapter leaves out gets leaves that change nothing. All our layers have one rank: of
    theirs with fewer, the rest of the rank is zeros and stays so in training; of theirs with another scale, `lora_b`
    makes up for it.

    Args:
      names: the name map of the base's family.
      base: nested dict of a plain model's parameters, or of ShapeDtypeStructs.
      prefix: of the family's names that files of a model without head lack ("model.").
      ties: the family's `ties`, of a tied head.
      arrays: gives the parameters where `base` has only shapes: for a DoRA adapter of some layers, whose other magnitudes are
        the kernels', for a file that holds tables of the base, and for one that replaces parts of its parameters.
      field: what the folder was given as, for messages.

    Raises:
      UserError: a file that is missing, broken or a pickle; another kind of adapter; anything in its config that has
        no counterpart here; tensors that are missing, unmapped or of another shape than the base asks for.
    """
    folder = pathlib.Path(folder).expanduser()
    config = _config(folder, field or "adapter")
    where, kind = str(folder / CONFIG), config["peft_type"]
    _refuse(config, where, kind)
    tensors = _tensors(folder)
    flat, whole = flatten(base), arrays or (lambda: base)
    tensors, replaced = peft_saved.taken(config, tensors, names, flat, whole, ties or {}, prefix, str(folder / WEIGHTS))
    if kind in peft_context.READERS:
        tune, leaves = peft_context.READERS[kind](config, tensors, flat, names, where)
    else:
        with_dora = bool(config.get("use_dora"))
        every = modules(names, flat, tables=True)
        if kind in peft_converted.READERS:
            sizes = {given: m.size_in for name, m, _ in named(every) for given in (name, name.removeprefix(prefix))}
            config, tensors = peft_converted.as_lora(config, tensors, sizes, str(folder / WEIGHTS))
            kind = "LORA"
        tensors = without_copies(config, tensors, every, flat, whole, ties or {}, prefix, str(folder / WEIGHTS))
        found = {
            name: module for name, module in every.items() if not module.table or (kind == "LORA" and not with_dora)
        }
        sites = _sites(config, tensors, found, prefix, folder, kind, ties or {})
        if with_dora and any((name, i) not in sites for name, _ in sites for i in range(found[name].depth)):
            flat = flatten(whole())
        if kind == "OSF":
            flat = flatten(whole())
        kind = "BD_LORA" if kind == "LORA" and config.get("use_bdlora") else kind
        tune, leaves = {**peft_layers.READERS, **peft_blocks.READERS}[kind](config, sites, found, flat, where)
    return Adapter(tune, unflatten(leaves), config.get("base_model_name_or_path") or "", unflatten(replaced))


def warning(params: Mapping[str, Any], names: Sequence[Tensor], ties: Mapping[str, str]) -> str:
    """What is to know of an adapter that was written: how PEFT's own merge fails; "" where it does not."""
    flat = flatten(params)
    tied = [m for m in modules(names, flat, tables=True).values() if m.table and tied_heads(m, ties)]
    if not any(f"{layer}/adapter/lora_a" in flat for module in tied for layer in module.layers):
        return ""
    return (
        "PEFT runs this adapter of a tied table as it was trained, and its merge_and_unload makes another model of it: for a merged "
        "model use ptft export --to=hf"
    )


def no_place(adapter: Method) -> str:
    """Why PEFT's format has no place for a method, or ""."""
    if isinstance(adapter, Composed):
        return "it holds one method, and not several joined by '+'"
    known = isinstance(adapter, (*peft_context.METHODS, LowRankMethod, Ia3, Oft, Hira, Shira))
    return "" if known else f"it knows nothing like {adapter.field}"


def write(
    folder: str | pathlib.Path,
    adapter: Method,
    params: Mapping[str, Any],
    names: Sequence[Tensor],
    *,
    ties: Mapping[str, str] | None = None,
    family: str = "",
    base: str = "",
    task: str | None = "CAUSAL_LM",
    changed: Collection[str] = (),
) -> None:
    """Writes a run's adapter as PEFT would.

    Several of our layers that are one fused module there are written with one rank for all of them where their `lora_a`
    are equal, else with a block of the rank for each.

    Args:
      adapter: the fine-tuning method (`ptft_jax.adapters.build`).
      params: nested dict of the adapted model's whole parameters.
      names: the name map of the family that the base is written as.
      ties: that family's `ties`, of a tied head.
      family: its `model_type`.
      base: what PEFT is to load the base from, a folder or a name.
      task: PEFT's task_type.
      changed: paths of parameters of the base that the run changed as well.

    Raises:
      UserError: a method, a layer or a change of the base that the format has no place for.
    """
    flat = flatten(params)
    if why := no_place(adapter):
        raise UserError(f"PEFT's format has no place for the method: {why}")
    if isinstance(adapter, peft_context.METHODS):
        config, tensors = peft_context.write(adapter, flat, names, family)
    else:
        every = modules(names, flat, tables=True)
        own = peft_blocks.write(adapter, flat, every)
        config, tensors = peft_layers.write(adapter, flat, every, ties or {}) if own is None else own
    more, saved = peft_saved.write(changed, config, tensors, names, flat, ties or {})
    config, tensors = {**config, **more}, {**tensors, **saved}
    common = {"base_model_name_or_path": base or None, "task_type": task, "inference_mode": True, "revision": None}
    folder = pathlib.Path(folder).expanduser()

    def save(path: pathlib.Path) -> None:
        from safetensors.numpy import save_file

        # PEFT reads the tensors of whatever library; "pt" is what it expects of the file.
        save_file({k: np.ascontiguousarray(a) for k, a in tensors.items()}, path, metadata={"format": "pt"})

    write_atomic(folder / WEIGHTS, save)
    text = json.dumps({**common, **config}, indent=2) + "\n"
    write_atomic(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


# Reading


def _config(folder: pathlib.Path, field: str) -> dict[str, Any]:
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"{field} = {str(folder)!r}: no such folder{nearest(folder.name, beside)}")
    path = folder / CONFIG
    if not path.is_file():
        hint = "; it holds a model, not an adapter" if (folder / "config.json").is_file() else ""
        inside = [str(p.parent.relative_to(folder)) for p in sorted(folder.glob(f"*/{CONFIG}"))]
        raise UserError(f"{field} = {str(folder)!r}: no {CONFIG} in it{hint}{listed(inside)}")
    config = jsons.table(path.read_bytes(), str(path))
    kind = config.get("peft_type")
    if kind == "LILY":
        raise UserError(
            f"{path}: peft_type 'LILY': its routing is a mean over all tokens of a batch, so what a token is given depends on later "
            "ones and on other rows; nothing here computes that"
        )
    if not isinstance(kind, str) or kind not in _READ:
        raise UserError(
            f"{path}: peft_type {kind!r} is not supported, only {', '.join(_READ)}{nearest(str(kind), _READ)}"
        )
    return config


def _refuse(config: Mapping[str, Any], where: str, kind: str) -> None:
    """Raises UserError for fields that are malformed, and for what would be lost: those neither read nor empty."""
    for key, types in _TYPES.items():
        value = config.get(key)
        if value is not None and not isinstance(value, types):
            expected = " or ".join(t.__name__ for t in types)
            raise UserError(f"{where}: {key} = {value!r}: expected {expected}, got {type(value).__name__}")
        if isinstance(value, list) and not all(
            isinstance(v, int if key == "layers_to_transform" else str) for v in value
        ):
            raise UserError(f"{where}: {key} = {value!r}: expected a list of names (layers_to_transform: of numbers)")
        for pattern in _regexes(key, value):
            try:
                re.compile(pattern)
            except re.error as e:
                raise UserError(f"{where}: {key}: {pattern!r} is not a regular expression: {e}") from e
    peft_saved.refuse(config, where)
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise UserError(
            f"{where}: init_lora_weights = {start!r}: such an adapter fits a base that its start has changed, not the "
            "plain one; have PEFT convert it (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    left = [f"{k} = {v!r}" for k, v in config.items() if k not in _NOTES | _READ[kind] | peft_saved.SETTINGS and v]
    if left:
        raise UserError(f"{where}: settings that have no counterpart here:{listed(left, 20)}")


def _regexes(key: str, value: Any) -> list[str]:
    """What PEFT takes for regular expressions; listed modules are plain names."""
    if key.endswith("_modules"):
        return [value] if isinstance(value, str) else []
    if key.endswith("_pattern"):
        return [value] if isinstance(value, str) else list(value or ())
    return []


def _tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        if pickles:
            raise UserError(
                f"{folder / pickles[0]}: a pickle can run any code and is not read; convert it where you trust it: "
                "PeftModel.from_pretrained(base, folder).save_pretrained(other) writes safetensors"
            )
        raise UserError(f"{folder}: no {WEIGHTS} in it")
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a whole safetensors file ({e}); fetch it again") from e


def _sites(config, tensors, found, prefix: str, folder: pathlib.Path, kind: str, ties: Mapping[str, str]):
    """{(template, layer): {leaf: array}} of everything in the file, which is exactly what the config selects."""
    where = folder / WEIGHTS
    expected = {}
    for name, module, layer in named(found):
        for end, leaf in peft_layers.tensor_ends(kind, module).items():
            for given in {name, name.removeprefix(prefix)}:  # files of a model without head lack the prefix
                expected[f"{ROOT}{given}.{end}"] = given, (module.template, layer), leaf
    sites: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    seen = set()
    for key in (key for key in tensors if key in expected):
        given, place, leaf = expected[key]
        sites.setdefault(place, {})[leaf] = tensors[key]
        seen.add(given)
    unmapped = [f"{key} {array.shape}" for key, array in tensors.items() if key not in expected]
    if unmapped:
        if why := of_tied_head(tensors, ties):
            raise UserError(f"{where}: {why}")
        hint = " (of embeddings and heads, LoRA alone is supported)" if _embeds(unmapped) else ""
        raise UserError(f"{where}: tensors that are of no layer of this model{hint}:{listed(unmapped, 40)}")
    if config.get("target_modules") is None:
        return sites
    bare = not any(name.startswith(prefix) for name in seen) if prefix else False
    chosen = {
        (module.template, layer): name
        for name, module, layer in named(found)
        if selected(config, name.removeprefix(prefix) if bare else name, module, layer)
    }
    problems = [f"missing  {name}" for place, name in chosen.items() if place not in sites]
    extra = [found[t].name(layer) for t, layer in sites if (t, layer) not in chosen]
    problems += [f"extra    {name}, which target_modules does not select" for name in extra]
    if problems:
        raise UserError(f"{where} does not hold the modules that {CONFIG} names:{listed(problems, 40)}")
    return sites


def _embeds(keys: Sequence[str]) -> bool:
    return any(word in key for key in keys for word in ("embed", "wte", "lm_head"))
