"""What the input costs a pre-training step, beside nanoGPT's way and plain Grain: python -m benchmarks.input_pipeline

All read the same two million token ids from a memory-mapped file, in rows of 128 tokens, 16 or 2,048 a batch. First each is
drained alone. Then each feeds the same compiled training step with batches of 16, and one batch that is never exchanged feeds
it as well; all take turns, some steps each, so that a machine whose speed drifts slows all. A loader's cost is what its steps take
longer than those that read nothing, as a share of a step.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

TOKENS, VOCAB, LENGTH, ROWS, MANY = 2_000_000, 1024, 128, 16, 2048
ROUNDS, STEPS, DRAINED = 20, 4, 300
OURS, GRAIN = ("ptft_jax, one stream", "ptft_jax, packed"), "plain Grain"


def loaders(folder: pathlib.Path, rows: int) -> dict[str, Iterator[Any]]:
    """name -> iterator of batches of so many rows, without end."""
    import grain
    import numpy as np

    from ptft_jax.data import batches, packing, store, store_writer
    from ptft_jax.data.builders.causal import Causal
    from ptft_jax.data.examples import Encoded
    from ptft_jax.data.mixture import Mixture
    from ptft_jax.data.rows import RowSet

    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, TOKENS).astype(np.int32)
    documents = np.split(ids, np.sort(rng.choice(TOKENS, TOKENS // 60, replace=False)))
    writer = store_writer.Writer(folder, VOCAB)
    writer.add([Encoded(d) for d in documents], range(len(documents)))
    writer.close("benchmark")
    tokens, builder = store.load(folder), Causal()

    def ours(how):
        plan = packing.plan(
            tokens.offsets, LENGTH, how=how, overlong="split", slots=builder.slots, overlap=1, seed=0, where=str
        )
        made = RowSet(tokens, plan, builder, LENGTH, segmented=how != "concat")
        mixture = Mixture(["all"], [1.0], [len(made)], batch_size=rows)
        return batches.training([made], mixture, batch_size=rows, seed=0, start=0, prefetch=2)

    def nanogpt():
        data = np.memmap(folder / "ids.bin", np.uint16, "r")
        while True:
            at = np.random.randint(len(data) - LENGTH, size=rows)
            yield {
                "inputs": np.stack([data[i : i + LENGTH].astype(np.int64) for i in at]),
                "targets": np.stack([data[i + 1 : i + 1 + LENGTH].astype(np.int64) for i in at]),
                "weights": np.ones((rows, LENGTH), np.float32),
            }

    class Windows:
        def __len__(self):
            return (TOKENS - 1) // LENGTH

        def __getitem__(self, index):
            row = np.asarray(tokens.ids[index * LENGTH : (index + 1) * LENGTH + 1], np.int32)
            return {"inputs": row[:-1], "targets": row[1:], "weights": np.ones(LENGTH, np.float32)}

    plain = grain.MapDataset.source(Windows()).seed(0).shuffle().repeat().batch(rows)
    return {
        OURS[0]: ours("concat"),
        OURS[1]: ours("best_fit"),
        "nanoGPT's memmap": nanogpt(),
        GRAIN: iter(plain.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))),
    }


def measure(*, tiny: bool = False) -> dict[str, Any]:
    """{"input": {loader: seconds per batch}}: "drained" and "drained_many", of 16 and of 2,048 rows, drained alone; "step" of a
    training step of 16 rows without input, "extra", which one with input takes longer."""
    import jax

    from benchmarks import setup

    rounds, drained = (2, 4) if tiny else (ROUNDS, DRAINED)
    with tempfile.TemporaryDirectory() as folder:
        sources = loaders(pathlib.Path(folder) / "few", ROWS)
        found = {name: {"drained": _drained(batches, drained)} for name, batches in sources.items()}
        for name, batches in loaders(pathlib.Path(folder) / "many", MANY).items():
            found[name]["drained_many"] = _drained(batches, max(drained // 10, 1))
        made = setup.trainer({"vocab": VOCAB, "length": LENGTH, "layers": 3, "width": 128, "heads": 4}, ROWS)
        step, state = made.program.train, made.init(0)
        fixed = {name: jax.device_put(next(batches)) for name, batches in sources.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        still: dict[str, list[float]] = {name: [] for name in sources}
        for round_ in range(rounds + 1):  # the first warms up and compiles
            for name, batches in sources.items():
                for times, batch_of in ((still, lambda n=name: fixed[n]), (seconds, lambda b=batches: next(b))):
                    began = time.perf_counter()
                    for _ in range(STEPS):
                        state, metrics = step(state, jax.device_put(batch_of()))
                        jax.block_until_ready(metrics)
                    if round_:
                        times[name].append((time.perf_counter() - began) / STEPS)
    for name, row in found.items():
        row["step"] = statistics.median(still[name])
        row["extra"] = statistics.median(a - b for a, b in zip(seconds[name], still[name]))
    return {"input": found}


def _drained(batches: Iterator[Any], count: int) -> float:
    """Seconds per batch, without the first."""
    next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - began) / count


def main() -> None:
    from ptft_jax.verbs.command import prepare_jax

    prepare_jax()
    for name, row in measure()["input"].items():
        drained = ", ".join(f"{row[key] * 1e3:.3f} ms" for key in ("drained", "drained_many"))
        print(f"{name:<22} {drained} per batch of {ROWS} and of {MANY:,} rows, drained alone")
        print(f"{name:<22} {row['step'] * 1e3:.1f} ms per step; input costs {row['extra'] / row['step']:+.2%} of it")


if __name__ == "__main__":
    main()
