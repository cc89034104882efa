"""What the input costs a pre-training step, beside nanoGPT's way and plain Grain: python -m benchmarks.input_pipeline

All read the same two million token ids from a memory-mapped file, in rows of 128 tokens, 16 a batch. First each is
drained alone. Then each feeds the same compiled training step, and one batch that is never exchanged feeds it as well;
all take turns, some steps each, so that a machine whose speed drifts slows all. A loader's cost is what its steps take
longer than those that read nothing, as a share of a step.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time

from ptft_jax.verbs.command import prepare_jax

TOKENS, VOCAB, LENGTH, ROWS = 2_000_000, 1024, 128, 16
ROUNDS, STEPS, DRAINED = 20, 4, 300


def loaders(folder: pathlib.Path) -> dict:
    """name -> iterator of batches without end."""
    import grain
    import numpy as np

    from ptft_jax.data import batches, packing, store
    from ptft_jax.data.builders.causal import Causal
    from ptft_jax.data.examples import Encoded
    from ptft_jax.data.mixture import Mixture
    from ptft_jax.data.rows import RowSet

    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, TOKENS).astype(np.int32)
    documents = np.split(ids, np.sort(rng.choice(TOKENS, TOKENS // 60, replace=False)))
    writer = store.Writer(folder, VOCAB)
    writer.add([Encoded(d) for d in documents], range(len(documents)))
    writer.close("benchmark")
    tokens, builder = store.load(folder), Causal()

    def ours(how):
        plan = packing.plan(
            tokens.offsets, LENGTH, how=how, overlong="split", slots=builder.slots, overlap=1, seed=0, where=str
        )
        rows = RowSet(tokens, plan, builder, LENGTH, segmented=how != "concat")
        mixture = Mixture(["all"], [1.0], [len(rows)], batch_size=ROWS)
        return batches.training([rows], mixture, batch_size=ROWS, seed=0, start=0, prefetch=2)

    def nanogpt():
        data = np.memmap(folder / "ids.bin", np.uint16, "r")
        while True:
            at = np.random.randint(len(data) - LENGTH, size=ROWS)
            yield {
                "inputs": np.stack([data[i : i + LENGTH].astype(np.int64) for i in at]),
                "targets": np.stack([data[i + 1 : i + 1 + LENGTH].astype(np.int64) for i in at]),
                "weights": np.ones((ROWS, LENGTH), np.float32),
            }

    class Windows:
        def __len__(self):
            return (TOKENS - 1) // LENGTH

        def __getitem__(self, index):
            row = np.asarray(tokens.ids[index * LENGTH : (index + 1) * LENGTH + 1], np.int32)
            return {"inputs": row[:-1], "targets": row[1:], "weights": np.ones(LENGTH, np.float32)}

    plain = grain.MapDataset.source(Windows()).seed(0).shuffle().repeat().batch(ROWS)
    return {
        "ptft_jax, one stream": ours("concat"),
        "ptft_jax, packed": ours("best_fit"),
        "nanoGPT's memmap": nanogpt(),
        "plain Grain": iter(plain.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))),
    }


def stepper():
    """(state, batch) -> state, compiled, and a first state."""
    from benchmarks import setup

    shape = {"vocab": VOCAB, "length": LENGTH, "layers": 3, "width": 128, "heads": 4}
    made = setup.trainer(shape, ROWS)
    return made.program.train, made.init(0)


def main() -> None:
    prepare_jax()
    import jax

    with tempfile.TemporaryDirectory() as folder:
        sources = loaders(pathlib.Path(folder) / "store")
        for name, batches in sources.items():
            next(batches)
            began = time.perf_counter()
            for _ in range(DRAINED):
                next(batches)
            print(f"{name:<22} {(time.perf_counter() - began) / DRAINED * 1e3:6.3f} ms per batch, drained alone")
        step, state = stepper()
        fixed = {name: jax.device_put(next(batches)) for name, batches in sources.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        still: dict[str, list[float]] = {name: [] for name in sources}
        for round_ in range(ROUNDS + 1):  # the first warms up and compiles
            for name, batches in sources.items():
                for times, batch_of in ((still, lambda n=name: fixed[n]), (seconds, lambda b=batches: next(b))):
                    began = time.perf_counter()
                    for _ in range(STEPS):
                        state, metrics = step(state, jax.device_put(batch_of()))
                        jax.block_until_ready(metrics)
                    if round_:
                        times[name].append((time.perf_counter() - began) / STEPS)
        for name in sources:
            bare = statistics.median(still[name])
            extra = statistics.median(a - b for a, b in zip(seconds[name], still[name]))
            print(f"{name:<22} {bare * 1e3:6.1f} ms per step without input; input costs {extra / bare:+.2%} of it")


if __name__ == "__main__":
    main()
