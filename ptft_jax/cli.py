"""`ptft VERB ...`: the same modules as `python -m ptft_jax.verbs.VERB`. Imports nothing heavy until a verb runs."""

from __future__ import annotations

import importlib
import sys

from ptft_jax.errors import nearest

VERBS = {
    "train": "pre-train or fine-tune: --config=NAME[:ARG] --workdir=DIR",
    "config": "show recipes, configs and settings: --list, --config=NAME[:ARG] or --fields",
    "eval": "measure a run on data: --run=DIR[@STEP] --data=SOURCE",
    "data": "prepare data and look at them: ptft data prepare|show|stats",
    "behavior": "what a run does with questions, before and after: --run=DIR --tasks=recall,known --data=SOURCE",
    "lm-eval": "tasks of lm-evaluation-harness, before and after: --run=DIR --tasks=NAME,... [--include=FOLDER]",
    "next": 'which words a run expects next: --run=DIR [--run=DIR ...] "The cat sat on the"',
    "generate": "continue a text: --run=DIR[@STEP] --prompt=TEXT",
    "chat": "talk with a model: --run=DIR[@STEP] [--message=TEXT]",
    "index": "an index for retrieval: --corpus=SOURCE --kind=bm25|dense|knn [--run=DIR] --out=DIR",
    "feedback": "data that a run makes of its own answers, by principles: --run=DIR --data=SOURCE --principles=FILE --out=DIR",
    "export": "write a model for other tools: --run=SOURCE --to=hf|gguf|peft --out=PATH",
    "combine": "make one run of several: --method=NAME --run=DIR [--run=DIR ...] --out=DIR",
    "runs": "list the runs below a folder: ptft runs [DIR] [--where=...] [--sort=...] [--columns=...]",
    "rm": "delete runs, but none that another was started from: ptft rm DIR ... [--dry_run]",
    "archive": "pack runs into one file and delete them: ptft archive DIR ... --out=FILE.tar.gz",
    "report": "write an HTML report of runs: --run=DIR [--run=DIR ...] --out=FILE",
    "compare": "gain against forgetting and cost of runs of one parent: ptft compare DIR DIR ... [--out=FILE]",
    "sweep": "runs at every point of some axes: --config=NAME[:ARG] --axis FIELD=A,B --seeds=N --out=DIR",
    "experiment": "a graph of runs that a file declares: --file=FILE --out=DIR [--dry_run]",
    "node": "one node of an experiment, as --executor=jobs has it done elsewhere: --task=FILE",
    "plan": "whether a step fits on a TPU slice that is not there, and its time at least: --config=NAME[:ARG] --topology=v5e:4x4",
    "dashboard": "runs and experiments of a folder, live in a browser: ptft dashboard [DIR] [--port=N]",
    "launch": "a command as a job on Cloud TPU, GKE, SLURM or Vertex AI: --name=NAME --on=tpu ... -- train --config=...",
    "bench": "measure beside PyTorch, transformers, PEFT and TRL: [CASE ...] [--out=DIR]",
    "cache": "show the data cache, or clear it: [--clear] [--kind=KIND] [--unused_days=N]",
    "doctor": "check this machine: versions, devices, cache, a compiled step",
}


def main() -> None:
    """Entry point of the `ptft` command."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        from ptft_jax.verbs.output import printed

        verbs = "\n".join(f"  {verb:<10} {meaning}" for verb, meaning in VERBS.items())
        printed(
            f"ptft VERB [--flags]; ptft VERB --help lists a verb's flags\n\n{verbs}\n\n"
            "ptft config --fields lists the settings, with defaults and meaning: --config.SECTION.NAME=VALUE"
        )
        return
    if words[0] == "--version":
        from ptft_jax import __version__

        print(f"ptft_jax {__version__}")
        return
    verb = words[0]
    if verb not in VERBS:
        print(f"error: ptft has no verb {verb!r}{nearest(verb, VERBS)}; it has {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    if verb == "data":
        from ptft_jax.verbs.data import __main__ as data

        data.main(words[1:])
        return
    from ptft_jax.verbs.command import launch

    module = importlib.import_module(
        "ptft_jax.train" if verb == "train" else f"ptft_jax.verbs.{verb.replace('-', '_')}"
    )
    launch(module.define, module.main, [f"ptft {verb}", *words[1:]], getattr(module, "WORDS", ""))


if __name__ == "__main__":
    main()
