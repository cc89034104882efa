"""What PEFT saves beside an adapter in the place of the base's own: whole modules, biases, rows of tables.

`modules_to_save` names modules of which the file holds copies, `bias` says that biases trained ("all", or those of adapted modules,
"lora_only"), `trainable_token_indices` which rows of a table did. Each becomes parameters of the plain model.
"""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.errors import UserError, listed
from ptft_jax.interop import layouts
from ptft_jax.interop.names import Tensor
from ptft_jax.interop.peft_modules import ROOT
from ptft_jax.params.rules import flatten

_ROWS = ".token_adapter.trainable_tokens_delta"  # the rows themselves, not what was added to them
_BARE = "base_model."  # before the names of modules where the adapter wraps none of them, as prompts do
_ADDED = re.compile(r"\.(?:lora|ia3|oft|shira|miss|gralora|hira|osf)_")
SETTINGS = {"modules_to_save", "trainable_token_indices"}

Places = dict[str, list[tuple[Tensor, tuple[int, ...]]]]  # their tensor -> the parts of ours that it is


def refuse(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError for settings that are malformed."""
    saved, rows, bias = (config.get(key) for key in ("modules_to_save", "trainable_token_indices", "bias"))
    if saved is not None and not (isinstance(saved, list) and all(isinstance(name, str) and name for name in saved)):
        raise UserError(f"{where}: modules_to_save = {saved!r}: expected a list of names")
    if bias not in (None, "none", "all", "lora_only"):
        raise UserError(f"{where}: bias = {bias!r}: expected 'none', 'all' or 'lora_only'")
    given = rows if isinstance(rows, dict) else {"": rows or []}
    for name, indices in given.items():
        whole = isinstance(indices, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in indices)
        if not whole or len(set(indices)) != len(indices) or min(indices, default=0) < 0:
            of = f"[{name!r}]" if name else ""
            raise UserError(
                f"{where}: trainable_token_indices{of} = {indices!r}: expected a list of numbers of tokens that differ"
            )


def taken(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    names: Sequence[Tensor],
    base: Mapping[str, Any],
    arrays: Callable[[], Mapping[str, Any]],
    ties: Mapping[str, str],
    prefix: str,
    where: str,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of an adapter's file without those that take the place of the base's, and the base's parameters by path, whole,
    with these in their place.

    Args:
      base: flat parameters of the plain model, or their shapes.
      arrays: gives the parameters themselves, nested; called where only parts of some are replaced.
      names, ties, prefix: see `ptft_jax.interop.peft.read`.

    Raises:
      UserError: tensors that the config promises and the file lacks, or of another shape; a part of a tied table alone.
    """
    places = _places(names, base)
    known = places.keys() | ties.keys()
    left, copies, rows = _without_wrappers(config, tensors), {}, {}
    for key in list(left):
        if key.endswith(_ROWS):
            rows[_theirs(key.removesuffix(_ROWS) + ".weight", known, prefix)] = left.pop(key)
            continue
        name = _theirs(key, known, prefix)
        saved = _saved(config, name) or _saved(config, ties.get(name, ""))  # of what is tied PEFT names one
        if name in known and (saved or (_biased(config) and name.rpartition(".")[2] == "bias")):
            copies[name] = left.pop(key)
    copies = _without_ties(config, copies, ties, places, where)
    missing = [name for name in places if _saved(config, name) and name not in copies]
    missing += [*_missing_biases(config, places, copies), *_missing_rows(config, rows, ties)]
    if missing:
        raise UserError(f"{where} lacks modules that the config says were saved:{listed(missing, 20)}")
    return left, _replaced(config, copies, rows, places, base, arrays, ties, where)


def write(
    changed: Collection[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    names: Sequence[Tensor],
    flat: Mapping[str, Any],
    ties: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What an adapter's config and file have beside the adapter, where parameters of the base changed too: biases of modules of
    which nothing else did, and other modules whole.

    Args:
      changed: the paths of what changed.
      config, tensors: of the adapter itself.
      names: the name map.
      flat: the model's whole parameters by path.

    Raises:
      UserError: what the format has no place for: a kernel below an adapter, tables that a head is tied to.
    """
    if not changed:
        return {}, {}
    places = _places(names, flat)
    own = {path for entries in places.values() for path in (tensor.ours for tensor, _ in entries)}
    moved = [name for name, entries in places.items() if any(tensor.ours in changed for tensor, _ in entries)]
    adapted = {_ADDED.split(key.removeprefix(ROOT))[0] for key in tensors}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in moved if not name.endswith(".bias"))
    biases = [name for name in moved if name.endswith(".bias") and name.rpartition(".")[0] not in modules]
    beside = config["peft_type"] in (
        "LORA",
        "IA3",
        "OFT",
        "SHIRA",
        "MISS",
        "GRALORA",
        "HIRA",
    )  # those that PEFT wraps modules for
    wrong = [path for path in changed if path not in own or not beside]
    wrong += [name for name in moved if name in ties.values() or name.rpartition(".")[0] in adapted & modules.keys()]
    if biases and "bias" not in config:
        wrong += biases
    if wrong:
        raise UserError(
            f"--to=peft: the run changed more than its adapter, and PEFT's format has no place for:{listed(wrong)}\n"
            "export the whole model by --to=hf"
        )
    everywhere = config["peft_type"] != "LORA" or any(name.rpartition(".")[0] not in adapted for name in biases)
    kept = [name for name in places if name.rpartition(".")[0] in modules]
    if biases:
        kept += [n for n in places if n.endswith(".bias") and (everywhere or n.rpartition(".")[0] in adapted)]
    out = {}
    for name in dict.fromkeys(kept):
        module, _, leaf = name.rpartition(".")
        out[f"{ROOT}{module}.base_layer.{leaf}" if module in adapted else ROOT + name] = _whole(places[name], flat)
    more: dict[str, Any] = {"modules_to_save": list(modules)} if modules else {}
    return more | ({"bias": "all" if everywhere else "lora_only"} if biases else {}), out


def _whole(entries: Sequence[tuple[Tensor, tuple[int, ...]]], flat: Mapping[str, Any]) -> np.ndarray:
    """One tensor of theirs, of all parts of ours."""
    first = flat[entries[0][0].ours]
    out = np.empty(layouts.their_whole_shape([tensor for tensor, _ in entries], flat, {}), first.dtype)
    for tensor, at in entries:
        array = layouts.write(tensor, np.asarray(flat[tensor.ours])[at], {})
        if tensor.part is None:
            out[...] = array
        elif tensor.output_axis == 0:
            out[tensor.part.rows] = array
        else:
            out[..., tensor.part.rows] = array
    return out


def _places(names: Sequence[Tensor], base: Mapping[str, Any]) -> Places:
    """Where each tensor of theirs goes; without those of images, which no adapter replaces."""
    places: Places = {}
    for tensor in names:
        if tensor.ours in base and tensor.layout != "patches":
            for at in np.ndindex(*base[tensor.ours].shape[: tensor.lead]):
                places.setdefault(tensor.name(*at), []).append((tensor, at))
    return places


def _theirs(key: str, known: Collection[str], prefix: str) -> str:
    """A key of the file as the name map writes it."""
    name = (key.removeprefix(ROOT) if key.startswith(ROOT) else key.removeprefix(_BARE)).replace(".base_layer.", ".")
    return prefix + name if name not in known and prefix + name in known else name


def _saved(config: Mapping[str, Any], name: str) -> bool:
    """Whether a tensor is of a module that `modules_to_save` names, by PEFT's rule: an end of the name of it, or of what holds it."""
    modules = list(itertools.accumulate(name.split(".")[:-1], "{}.{}".format))
    return any(module.endswith(end) for end in config.get("modules_to_save") or () for module in modules)


def _biased(config: Mapping[str, Any]) -> bool:
    return config.get("bias", "none") not in (None, "none")


def _without_wrappers(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With "all", the biases of saved modules are in the file thrice: as they are, and under the names of what PEFT wraps them in,
    the base's own among them."""
    again = (".original_module.bias", ".modules_to_save.bias") if config.get("bias") == "all" else ()
    return {key: array for key, array in tensors.items() if not key.endswith(again)}


def _missing_rows(config: Mapping[str, Any], rows: Mapping[str, Any], ties: Mapping[str, str]) -> list[str]:
    """Of a tied table, the rows of one of the two are those of both."""
    given = config.get("trainable_token_indices")
    if not isinstance(given, dict):
        return [f"embeddings{_ROWS}"] if given and not rows else []
    there = [name.rpartition(".")[0] for name in (*rows, *(one for one, of in ties.items() if of in rows))]
    return [f"{end}{_ROWS}" for end, indices in given.items() if indices and not any(m.endswith(end) for m in there)]


def _missing_biases(config: Mapping[str, Any], places: Places, copies: Mapping[str, Any]) -> list[str]:
    """With "all", every bias is in the file; of "lora_only" earlier versions of PEFT saved none."""
    if config.get("bias") != "all":
        return []
    return [name for name in places if name.endswith(".bias") and name not in copies]


def _without_ties(
    config: Mapping[str, Any],
    copies: dict[str, np.ndarray],
    ties: Mapping[str, str],
    places: Places,
    where: str,
) -> dict[str, np.ndarray]:
    """The copies without those of tied tensors, which have to be what they are tied to."""
    kept = {name: array for name, array in copies.items() if name not in ties}
    together = bool(config.get("ensure_weight_tying")) or not config.get("modules_to_save")
    for one, of in ties.items():
        if of not in places:
            continue
        if one in copies and of not in kept and together:
            kept[of] = copies[one]
        alone = not together and (one in copies) != (of in kept)
        if alone or (one in copies and not np.array_equal(copies[one], kept[of])):
            module, table = one.rpartition(".")[0], of.rpartition(".")[0]
            raise UserError(
                f"{where}: {module} is tied to {table}, and modules_to_save = {config.get('modules_to_save')} has made two matrices of "
                "them. Write the base untied (with transformers, tie_word_embeddings=False and a copy of the table for the head, "
                "then save_pretrained(FOLDER)), and put the adapter onto hf:FOLDER"
            )
    return kept


def _replaced(
    config: Mapping[str, Any],
    copies: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    places: Places,
    base: Mapping[str, Any],
    arrays: Callable[[], Mapping[str, Any]],
    ties: Mapping[str, str],
    where: str,
) -> dict[str, np.ndarray]:
    problems = [
        f"shape    {name} {copies[name].shape}, expected {shape}" for name, shape in _shapes(copies, places, base)
    ]
    if problems:
        raise UserError(
            f"{where}: what the adapter saved of the base is of another shape than there (a base with more tokens or classes is to be "
            f"written as it was when the adapter was trained, by save_pretrained):{listed(problems, 20)}"
        )
    counts = collections.Counter(tensor.ours for name in copies for tensor, _ in places[name])
    parts = {p for p, n in counts.items() if n < int(np.prod(base[p].shape[: _lead(p, places)]))}
    tables = {name: _table(name, array, config, places, base, ties, where) for name, array in rows.items()}
    parts |= {path for path, *_ in tables.values() if path not in counts}
    held = flatten(arrays()) if parts else {}
    out = {
        path: np.array(held[path]) if path in parts else np.empty(base[path].shape, base[path].dtype)
        for path in dict.fromkeys([*counts, *(path for path, *_ in tables.values())])
    }
    for name, array in copies.items():
        for tensor, at in places[name]:
            shape = base[tensor.ours].shape[tensor.lead :]
            whole = tuple(slice(0, size) for size in shape)
            out[tensor.ours][at] = layouts.read(tensor, name, whole, lambda _, index, array=array: array[index])
    for name, (path, indices, transposed) in tables.items():
        (out[path].T if transposed else out[path])[indices] = rows[name]
    return out


def _lead(path: str, places: Places) -> int:
    return next(tensor.lead for entries in places.values() for tensor, _ in entries if tensor.ours == path)


def _shapes(copies: Mapping[str, np.ndarray], places: Places, base: Mapping[str, Any]) -> list[tuple[str, tuple]]:
    """(name, the shape that it should have) of the copies that have another."""
    expected = {name: layouts.their_whole_shape([t for t, _ in places[name]], base, {}) for name in copies}
    return [(name, shape) for name, shape in expected.items() if copies[name].shape != shape]


def _table(name: str, array: np.ndarray, config, places: Places, base, ties, where: str) -> tuple[str, list[int], bool]:
    """(path of the table, the rows of it that `array` is, whether they are columns of ours). Raises UserError."""
    module = name.rpartition(".")[0]
    if name in ties:
        raise UserError(
            f"{where}: trainable_token_indices: {module} is tied to {ties[name].rpartition('.')[0]}: give the rows of that alone"
        )
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        found = [rows for end, rows in given.items() if module.endswith(end)]
        indices = found[0] if found else []
    else:
        indices = given or []
    entry = places.get(name, [])
    path = entry[0][0].ours if entry and entry[0][0].layout in ("same", "transposed") and not entry[0][0].lead else ""
    if not path:
        raise UserError(f"{where}: {module}{_ROWS} is of no table of this model")
    transposed = entry[0][0].layout == "transposed"
    shape = base[path].shape[::-1] if transposed else base[path].shape
    if array.shape != (len(indices), shape[1]) or max(indices, default=0) >= shape[0]:
        raise UserError(
            f"{where}: {module}{_ROWS} {array.shape} does not fit trainable_token_indices, {len(indices)} rows up to "
            f"{max(indices, default=0)}, of a table {tuple(shape)}"
        )
    return path, indices, transposed
