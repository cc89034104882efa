"""Writes a model for other tools, reads it back, and compares.

python -m ptft_jax.verbs.export --run=runs/lora@best --to=hf --out=exports/mine
python -m ptft_jax.verbs.export --run=runs/lora@best --to=peft --out=exports/adapter
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ptft_jax import environment
from ptft_jax.config.field import Field
from ptft_jax.errors import UserError, listed
from ptft_jax.runs import places
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs.command import IGNORE, SOURCES, define_number, define_plugins, launch, prepare_jax, say_chosen


def define() -> None:
    flags.DEFINE_string("run", None, SOURCES)
    flags.DEFINE_multi_string("ignore", [], IGNORE)
    define_plugins()
    flags.DEFINE_enum("to", "hf", ["hf", "gguf", "peft"], "A Hugging Face folder, a GGUF file, or a PEFT adapter.")
    flags.DEFINE_string("out", None, "The folder (hf, peft) or file (gguf) to write.")
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16", "float16", "q8_0"], "What weights are written in; q8_0 is for gguf."
    )
    flags.DEFINE_string(
        "family", "", "The model_type to write; '' = that of the imported weights, or the first that fits."
    )
    flags.DEFINE_string(
        "base", "", "For peft: where PEFT finds the base; '' = the imported weights the run started from."
    )
    flags.DEFINE_enum(
        "merge_into",
        "",
        ["", "dequantized", "original"],
        "Of a run on a quantized base: add its adapter to the kernels it was trained on, or to the base's own.",
    )
    size = Field(5.0, "", valid=lambda v: v >= 0.0001, expected="a value of 0.0001 or more")
    define_number("shard_gb", 5.0, size, "Largest safetensors file, in GB.")


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best")
    if not args.out:
        raise UserError("--out is missing: the folder or file to write")
    prepare_jax()
    out = places.local(args.out, f"--out={args.out}").expanduser()
    if args.to == "peft":
        written = adapter(args.run, out, family=args.family, base=args.base, plugins=args.plugins)
    else:
        options = {name: args[name].value for name in ("dtype", "family", "shard_gb", "ignore", "merge_into")}
        written = model(args.run, args.to, out, **options, plugins=args.plugins)
    print(json.dumps(written, indent=1))


def model(
    reference: str,
    to: str,
    out: pathlib.Path,
    *,
    dtype: str,
    family: str = "",
    shard_gb: float = 5.0,
    ignore: Sequence[str] = (),
    merge_into: str = "",
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Exports a whole model, adapters merged; says what was written. `plugins`: that have families, beside those of the run.
    Raises UserError."""
    from ptft_jax.interop import export, peft
    from ptft_jax.runs import identity, loading
    from ptft_jax.runs import source as restore

    if to == "gguf":
        environment.needed("gguf", "--to=gguf")  # before anything is loaded
    restore.check_merge(restore.find(reference, "--run", ignore, plugins=plugins), merge_into, "--merge_into")
    loaded = loading.load(reference, field="--run", ignore=ignore, merge_into=merge_into, plugins=plugins)
    if loaded.model.adapt is not None:
        advice = "export its base, and the adapter by --to=peft"
        if why := peft.no_place(loaded.model.adapt.bare):
            advice = f"nor has PEFT's format a place for them ({why}): use the run as it is (generate, chat, eval)"
        raise UserError(
            f"--to={to}: {loaded.source.name} was trained by tune.method={loaded.source.config.tune.method!r}, whose additions are "
            f"no part of a plain model; {advice}"
        )
    fields, chain, tokenizer, summary = _facts(loaded.source)
    plugins = tuple(dict.fromkeys((*loaded.source.config.plugins, *plugins)))
    options = {"family": family, "classes": loaded.source.classes, "plugins": plugins}
    options["template"] = identity.chat_template(loaded.source)
    if tokenizer is not None:
        objective = loaded.source.config.objective
        options["last"] = objective.tables.objectives[objective.name].builder.last_tokens(tokenizer)
    exported = export.Exported(loaded.params, fields, tokenizer, chain, **options)
    if to == "gguf":
        written = export.to_gguf(exported, out, dtype=dtype)
    else:
        written = export.to_folder(exported, out, dtype=dtype, summary=summary, shard_bytes=int(shard_gb * 1e9))
    say_chosen(loaded.source)
    return written | _lost_values(loaded.source)


def adapter(
    reference: str, out: pathlib.Path, *, family: str, base: str, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """Exports what a run added to its base, in PEFT's format; says what was written. Raises UserError."""
    from ptft_jax.interop import export, families, tokenizer_files
    from ptft_jax.parallel.sharding import on_one_device
    from ptft_jax.params.rules import flatten
    from ptft_jax.runs import identity
    from ptft_jax.runs import source as restore

    source = restore.find(reference, "--run")
    if source.adapter is None:
        raise UserError(f"--to=peft: {source.name} has no adapter; export the whole model by --to=hf")
    fields, chain, tokenizer, _ = _facts(source)
    if fields.get("mup_base_width"):
        raise UserError(
            f"--to=peft: {source.name} has model.mup_base_width = {fields['mup_base_width']}, whose factors PEFT's bases do not have; export "
            "the whole model by --to=hf, which puts them into its weights"
        )
    named, _ = families.of(fields, chain[1:], family, (*source.config.plugins, *plugins))
    origin = chain[1].get("reference", "") if len(chain) > 1 else ""
    if not base and not origin.startswith("hf:"):
        raise UserError("--base is missing: the run did not start from hf: weights, so say where PEFT finds its base")
    if not source.meta.get("base"):
        raise UserError(f"--to=peft: {source.name} did not start from another model, so there is no base to put it on")
    params = source.parameters(on_one_device, merged=False)
    before = _before(source, flatten(params), flatten(restore.base_parameters(source, on_one_device)))
    base = base or origin.removeprefix("hf:")
    template, files = identity.chat_template(source), {}
    if template and template != tokenizer.chat_template:  # the base's tokenizer does not bring it
        files = tokenizer_files.written(tokenizer, fields["max_length"], template)
    written = export.to_peft(source.adapter.bare, params, fields, named, out, base=base, before=before, files=files)
    # The format has no place for how the base is kept: whoever loads it quantizes it, or not.
    written |= {"trained_on": dataclasses.asdict(source.quantization)} if source.quantization else {}
    say_chosen(source)
    return written | _lost_values(source) | _lost_names(source, chain[1])


def _lost_values(source: Any) -> dict[str, str]:
    """What an export leaves out of a run with a value head."""
    from ptft_jax.runs import source as restore

    has = isinstance(source, restore.Source) and source.has_values
    return {"without": "the value head, which only training needs"} if has else {}


def _lost_names(source: Any, base: dict[str, Any]) -> dict[str, Any]:
    """What a PEFT folder leaves out of a classifier: names of classes are in the base's config.json alone."""
    from ptft_jax.interop import labels
    from ptft_jax.interop.config_reader import Fields

    theirs = labels.read(Fields(base["config"], base["reference"]))[1] if "config" in base else ()
    if source.classes == theirs:
        return {}
    return {"left_out": "names of classes, for which PEFT's format has no place", "classes": list(source.classes)}


def _before(source: Any, params: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The base's parameters by path, NaN for those that were re-initialized and so are none of its. Raises UserError for another
    shape: PEFT puts an adapter onto the base as it is."""
    import numpy as np

    from ptft_jax.adapters.base import is_added

    own = {path: array for path, array in params.items() if not is_added(path)}
    wrong = [path for path, array in own.items() if path in base and array.shape != base[path].shape]
    if wrong:
        raise UserError(
            f"--to=peft: {source.name} changed more than its adapter, and PEFT's format has no place for:{listed(wrong)}\n"
            "export the whole model by --to=hf"
        )
    return {path: base[path] if path in base else np.full(a.shape, np.nan, a.dtype) for path, a in own.items()}


def _facts(source: Any) -> tuple[dict[str, Any], list[dict[str, Any]], Any, dict[str, Any]]:
    """A model's structural fields, the lineage that it and what came before it make, its tokenizer, its run's summary."""
    from ptft_jax.interop import pretrained
    from ptft_jax.model.spec import wordless

    imported = isinstance(source, pretrained.Pretrained)
    tokenizer = None if wordless(source.fields) else source.tokenizer
    chain = source.lineage("" if imported else source.meta["fingerprint"])
    summary = {} if imported else Workdir(source.workdir).read_summary() or {}
    measured = summary.get("best_step") == source.step  # what the summary says is of that step
    return source.fields, chain, tokenizer, summary if measured else {}


if __name__ == "__main__":
    launch(define, main)
