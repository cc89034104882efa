"""The page of benchmarks.json: tables and figures of what was measured, as ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cases, image_input, input_pipeline, stall
from benchmarks.training import LOGITS, LOSSES, OURS, STEPS
from ptft_jax.reporting import plots

HEAD = f"""# Benchmarks

What a user would pick instead, measured in turns with ours in one session on one machine, and stated as ratios: absolute times
say more of the machine than of the program. `make bench` makes an environment with the peers (`ptft_jax[bench]`), measures
everything again and rewrites this page; `ptft bench CASE` measures one case and keeps the rest:

```sh
ptft bench --tiny 4x128 growth-width --out=runs/bench
```

`--tiny` only shows that it runs. The numbers behind this page are in `benchmarks.json` beside it.

## A training step

In float32 on the CPU, AdamW with clipping, on random tokens or pixels. A number is the time of the **fastest valid peer** over the time of
the column: above 1 it is faster than every peer. "scanned" and "unrolled" are ours (`model.scan`). Before it is timed, each side gets
the same weights and has to give the same logits (within {LOGITS:g}) and, over {STEPS} steps of training, the same losses (within
{LOSSES:.1%}); where it does not, its figure is void. Sides take turns, and the median of the rounds counts.
"""
SHAPES = {
    "4x128": "4 layers of 128, 12 rows of 64 characters (nanoGPT on a CPU)",
    "6x384": "6 layers of 384, 16 rows of 256 characters",
    "124M": "GPT-2 124M, 2 rows of 512 tokens",
    "smollm2-lora": "SmolLM2-135M's shape, 4 rows of 256, LoRA of rank 8 on all linear layers",
    "smollm2-full": "SmolLM2-135M's shape, 4 rows of 256, all parameters",
    "vit-4x28": "a ViT of 4 layers of 128, 64 images of 28 x 28 in patches of 4",
    "vit-s16-224": "ViT-S/16, 8 images of 224 x 224",
}
_STEP = {"seconds": "a step", "compile": "compiling", "bytes": "memory"}
_SAVED = {"seconds": "until it is on disk", "stall": "training waits", "bytes": "bytes on disk"}
_COMMAND = {"seconds": "seconds", "bytes": "peak of memory"}
# Axis -> title, what is changed, and what is shown of each point, with its meaning.
AXES: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "layers": ("Depth", "layers", _STEP),
    "width": ("Width", "width", _STEP),
    "length": ("Sequence length, at as many tokens per step", "tokens per row", _STEP),
    "vocab": ("Vocabulary", "tokens in the vocabulary", _STEP),
    "devices": ("Devices, simulated on the cores of one machine (`parallel.fsdp`); memory of each", "devices", _STEP),
    "checkpoint": ("Checkpoints", "parameters", _SAVED),
    "runs": ("Runs below a folder, as `ptft runs` lists them", "runs", _COMMAND),
    "corpus": ("Corpus: one file of text, as bytes", "MB of text", _COMMAND),
}
NOT_YET = "Not measured."


def render(results: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """(the page, SVGs by name) of what `benchmarks.bench.run` found."""
    figures: dict[str, str] = {}
    parts = [HEAD, *_training(results, figures)]
    parts += ["## Decoding\n", *_decoding(results)]
    parts += ["## From the command to the first step\n", *_start(results.get("start"), figures)]
    parts += ["## What a run does beside its steps\n", *_saving(results.get("saving")), *_input(results.get("input"))]
    parts += _images(results)
    parts += ["## How cost grows\n", *_growth(results, figures)]
    parts += ["## Quality for the time\n", *_quality(results.get("quality"), figures)]
    parts += ["## Measured on\n", *_machines(results)]
    return "\n".join(parts).rstrip() + "\n", figures


def line(found: Mapping[str, Any]) -> str:
    """What a case found, in a few words."""
    if "ratios" in found:
        shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in found["ratios"].items())
        return f"{shown} of {found['best']}" if found["best"] else "no valid peer"
    if "decoding" in found:
        return f"{found['decoding']['ratio']:.2f} of transformers"
    if "warm" in found:
        cold, warm = (sum(found[kind].values()) for kind in ("cold", "warm"))
        return f"{cold:.1f} s cold, {warm:.1f} s warm, --help {found['help']:.2f} s"
    if "saving" in found:
        return f"a save stalls {_shares(found['saving'])['stall']:.2%} of {stall.EVERY} steps"
    if "input" in found:
        return ", ".join(f"{name} {row['extra'] / row['step']:+.2%}" for name, row in found["input"].items())
    if "images" in found:
        return ", ".join(f"{name} {1 / row['seconds']:,.0f} images per second" for name, row in found["images"].items())
    return "done"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; all rows have the columns of the first."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row.get(c, "")) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _figure(name: str, meaning: str) -> str:
    return f"![{meaning}](figures/benchmarks-{name}.svg)\n"


def _training(results: Mapping[str, Any], figures: dict[str, str]) -> list[str]:
    there = {name: results[name] for name in cases.cpu() if name in results}
    if not there:
        return [NOT_YET + "\n"]
    rows, notes, bars = [], [], {}
    for name, found in there.items():
        sides, best = found["sides"], found["best"]
        base = sides[best]["seconds"] if best else None
        ratio = {side: base / row["seconds"] for side, row in sides.items()} if base else {}
        others = [f"{side} {ratio[side]:.2f}" for side in sides if side not in OURS and side in ratio and side != best]
        others = [f"{text} (void)" if text.rpartition(" ")[0] in found["void"] else text for text in others]
        ours = {side: f"{ratio[side]:.2f}" if ratio else "void" for side in OURS}
        rows.append({"case": SHAPES[name], **ours, "fastest peer (1)": best or "none", "others": ", ".join(others)})
        notes += [f"- {name}: {side} was not measured: {why}.\n" for side, why in found["absent"].items()]
        for side in found["void"]:
            check = sides[side]["check"]
            far = f"logits differ by {check['logits']:.1e}, losses by {check['losses']:.1e}"
            notes.append(f"- {name}: {side} is void, as it computes something else: {far}.\n")
        for side in OURS if ratio else ():
            bars.setdefault(side, {})[name] = ratio[side]
    if bars:
        bars["fastest peer"] = dict.fromkeys(next(iter(bars.values())), 1.0)
        figures["training"] = plots.bars(bars, title="Training speed over the fastest peer's", x="", y="ratio")
    return [table(rows), *([_figure("training", "Training speed over the fastest peer's")] if bars else []), *notes]


def _decoding(results: Mapping[str, Any]) -> list[str]:
    rows = [
        {
            "case": row["case"],
            "a token": f"{row['ratio']:.2f}",
            "the prompt and the first token": f"{row['peer_prompt_ms'] / row['ours_prompt_ms']:.2f}",
        }
        for row in (found["decoding"] for found in results.values() if "decoding" in found)
    ]
    if not rows:
        return [NOT_YET + "\n"]
    return [
        "At SmolLM2-135M's shape, greedily, beside `generate` of transformers, which has to write the same tokens first: its time over\n"
        "ours.\n",
        table(rows),
    ]


def _start(found: Mapping[str, Any] | None, figures: dict[str, str]) -> list[str]:
    if not found:
        return [NOT_YET + "\n"]
    kinds = {"no cache": found["cold"], "caches full": found["warm"]}
    rows = []
    for name, parts in kinds.items():
        whole = sum(parts.values())
        shares = {part.replace("_", " "): f"{took / whole:.0%}" for part, took in parts.items() if part != "saving"}
        cold = f"{whole / sum(found['cold'].values()):.0%}"
        rows.append({"": name, "seconds": f"{whole:.1f}", "of a cold start": cold, **shares})
    figures["start"] = plots.stacked(kinds, title="Seconds from the command to the first step", x="seconds")
    return [
        "Of `ptft train` with the base of the demo, on a text of 1 MB; the compilation cache is that of every run\n"
        '(`~/.cache/ptft_jax/xla`). The evaluation of step 0 is part of it. "trace" is tracing and lowering.\n',
        table(rows),
        f"`ptft --help` takes {found['help']:.2f} seconds.\n",
        _figure("start", "Seconds from the command to the first step"),
    ]


def _shares(saving: Mapping[str, float]) -> dict[str, float]:
    """Parts of a save over the time of as many steps as there are from save to save."""
    return {name: saving[name] / (stall.EVERY * saving["step"]) for name in ("stall", "slowed", "written")}


def _saving(found: Mapping[str, Any] | None) -> list[str]:
    said = ["### Saving\n"]
    if not found:
        return [*said, NOT_YET + "\n"]
    saving, meaning = found["saving"], {
        "stall": "training waits for it",
        "slowed": "steps that run while it is written take longer, together",
        "written": "until it is on disk and checked",
    }  # fmt: skip
    rows = [
        {"a save": text, "seconds": f"{saving[name]:.2f}", f"of {stall.EVERY} steps": f"{_shares(saving)[name]:.2%}"}
        for name, text in meaning.items()
    ]
    return [
        *said,
        f"Of the whole state of {saving['parameters'] / 1e6:,.0f} million parameters ({saving['bytes'] / 1e9:.2f} GB on disk) every {stall.EVERY} steps, of\n"
        f"{saving['step']:.2f} seconds each here. A save waits for the one before: where {stall.EVERY} steps take less than it takes until that is on disk,\n"
        f"which is where a step takes less than {saving['written'] / stall.EVERY * 1000:.0f} ms, training waits for what is missing.\n",
        table(rows),
    ]


def _input(found: Mapping[str, Any] | None) -> list[str]:
    said = ["### Input\n"]
    if not found:
        return [*said, NOT_YET + "\n"]
    few, many, length = input_pipeline.ROWS, input_pipeline.MANY, input_pipeline.LENGTH
    plain = found["input"][input_pipeline.GRAIN]
    rows = [
        {
            "loader": name,
            f"of a step of {few} rows": f"{row['extra'] / row['step']:+.2%}",
            f"of one of {many:,} rows, at most": f"{row['drained_many'] / (row['step'] * many / few):.2%}",
            f"{few} rows alone": f"{row['drained'] / plain['drained']:.2f}",
            f"{many:,} rows alone": f"{row['drained_many'] / plain['drained_many']:.2f}",
        }
        for name, row in found["input"].items()
    ]
    return [
        *said,
        f"Rows of {length} tokens out of a file, for 3 layers of width 128: what a step takes longer that reads its batch, beside the same step with\n"
        f"one batch that stays. A step of {many:,} rows is taken as {many // few} of {few}, and its batch as if nothing of it were made during the step\n"
        "before. Batches alone, without a step: the time over plain Grain's.\n",
        table(rows),
    ]


def _images(results: Mapping[str, Any]) -> list[str]:
    said, found = ["### Images\n"], results.get("image-input")
    if not found:
        return [*said, NOT_YET + "\n"]
    took = {name: row["seconds"] for name, row in found["images"].items()}
    others = {name: seconds for name, seconds in took.items() if name not in image_input.OURS}
    base = min(others, key=others.__getitem__, default="")
    step = results.get("vit-s16-224")  # what one image takes of ours there, where it was measured
    share = min(step["sides"][side]["seconds"] for side in OURS) / step["case"]["rows"] if step else None
    rows = [
        {
            "loader": name,
            "images per second": f"{1 / seconds:,.0f}",
            **({f"of {base} (1)": f"{others[base] / seconds:.2f}"} if base else {}),
            **({"of a step of ViT-S/16": f"{seconds / share:.1%}"} if share else {}),
        }
        for name, seconds in took.items()
    ]
    size, side = image_input.SIZE, image_input.SIDE
    return [
        *said,
        f"Batches of {size} x {size} pixels out of a folder of JPEGs of {side} x {side}, by a random part made as large as that, a flip and other colors, with\n"
        "one worker each: a thread of ours, a process of theirs. Ours decodes an image when a run first sees it, and keeps its pixels; theirs\n"
        "decode it every time.\n",
        table(rows),
        *(f"- {name} was not measured: {why}.\n" for name, why in found["absent"].items()),
    ]


def _growth(results: Mapping[str, Any], figures: dict[str, str]) -> list[str]:
    said = [
        "Each line is relative to its first point, which the last column has. Compiling is without a cache; memory of a step is as\n"
        "the compiler plans it, that of a command the peak of the largest of its processes.\n"
    ]
    for axis, (title, x, what) in AXES.items():
        said.append(f"### {title}\n")
        found = results.get(f"growth-{axis}")
        if not found:
            said.append(NOT_YET + "\n")
            continue
        lines, rows = {}, []
        for name, points in found["points"].items():
            for key, meaning in what.items():
                shown = f"{meaning}, {name}" if len(found["points"]) > 1 else meaning
                lines[shown] = [[(p["x"], p[key] / points[0][key]) for p in points]]
                ratios = {f"{x} {p['x']:,}": f"{p[key] / points[0][key]:.2f}" for p in points}
                first = f"{points[0][key] / 1e6:,.0f} MB" if key == "bytes" else f"{points[0][key]:.3g} s"
                rows.append({"": shown, **ratios, "1 is": first})
        title = title.split(",")[0].split(":")[0]
        figures[f"growth-{axis}"] = plots.curves(lines, title=title, x=x, y="times the first", log=True)
        said += [table(rows), _figure(f"growth-{axis}", title)]
    return said


def _quality(found: Mapping[str, Any] | None, figures: dict[str, str]) -> list[str]:
    if not found or "recipes" not in found:
        return [NOT_YET + "\n"]
    target, recipes = found["target"], found["recipes"]
    rows, lines = [], {}
    for name, recipe in recipes.items():
        losses = ", ".join(f"{loss:.3f}" for loss in recipe["losses"])
        rows.append({"recipe": f"`pretrain/characters:{name}`", "steps": recipe["steps"], "validation loss": losses,
                     "time": f"{recipe['seconds'] / next(iter(recipes.values()))['seconds']:.2f}"})  # fmt: skip
        lines[name] = [[tuple(point) for point in curve] for curve in recipe["curves"]]
    figures["quality"] = plots.curves(
        lines, title="Validation loss", x="seconds of training", y="nats per character", level=("nanoGPT's", target)
    )
    return [
        f"Characters of Shakespeare as nanoGPT trains them on a CPU, to a validation loss of {target} (its README), with\n"
        f"{len(rows[0]['validation loss'].split(', '))} seeds; the time of the steps is relative to the first. "
        "`python -m experiments.characters` runs it.\n",
        table(rows),
        _figure("quality", "Validation loss by seconds of training"),
    ]


def _machines(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return [NOT_YET + "\n"]
    rows = []
    for name, found in results.items():
        on, (before, after) = found["machine"], found["load"]
        packages = ", ".join(f"{k} {v}" for k, v in on["packages"].items() if v != "-")
        rows.append(
            {
                "case": f"{name} (tiny)" if found["tiny"] else name,
                "machine": f"{on['processor']}, {on['cores']} cores, {on['device']}",
                "load before, after": f"{before}, {after}",
                "versions": f"Python {on['python']}, {packages}",
                "revision": on["revision"][:9] + ("+" if on["revision"].endswith("+") else ""),
            }
        )
    return [table(rows)]
