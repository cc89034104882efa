"""Peak memory of importing weights: ours, and transformers' beside it where that is installed.

python -m benchmarks.import_memory [--millions=120]

Every measurement is a process of its own. Counted is how much its peak resident memory grows from just before the load
(libraries imported, devices there) until the parameters are in place, over the bytes of the parameters.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

WIDTH, LAYERS = 768, 12

_OURS = """
import jax, json, sys
from ptft_jax.interop import pretrained
from ptft_jax.parallel import mesh as meshes, sharding
from ptft_jax.model.transformer import Transformer
from ptft_jax.model.spec import ModelSpec
found = pretrained.find("{kind}:{path}", "--run")
mesh = meshes.make(1, jax.device_count())
shapes = Transformer(ModelSpec(**found.fields)).shapes()
by_path = sharding.of_params(shapes, sharding.DEFAULT_RULES, mesh)
jax.block_until_ready(jax.numpy.ones(8))
before = reset()
params = jax.block_until_ready(found.parameters(lambda path, shape: by_path[path], "{dtype}"))
done(before, sum(a.nbytes for a in jax.tree.leaves(params)))
"""
_THEIRS = """
import json, torch
from transformers import LlamaForCausalLM
before = reset()
model = LlamaForCausalLM.from_pretrained("{path}", dtype=torch.{dtype})
sum(float(p.sum()) for p in model.parameters())  # its parameters are the mapped file until they are used
done(before, sum(p.nbytes for p in model.parameters()))
"""
_PROBE = """
import json
def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
def reset():
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again
    return status("VmRSS")
def done(before, size):
    print(json.dumps(dict(grown=status("VmHWM") - before, size=size)))
"""


def _make(folder: pathlib.Path, millions: int) -> None:
    """A Llama of about so many million parameters, in float32, as a Hugging Face folder and as a GGUF file."""
    import jax

    from ptft_jax.data import tokenizers as tok
    from ptft_jax.interop import export, families
    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.model.transformer import Transformer

    layers = max(1, round(millions * 1e6 / (12 * WIDTH**2)))
    fields = families.canonical(
        dict(
            vocab_size=1024, layers=layers, width=WIDTH, heads=LAYERS, mlp_width=8 * WIDTH // 3, max_length=128, gated=True,
            activation="silu", norm="rms", biases=(), positions="rotary", tied=False,
        )
    )  # fmt: skip
    params = jax.jit(Transformer(ModelSpec(**fields)).init)(jax.random.key(0))
    bpe = tok.train_bpe([pathlib.Path(__file__).read_text(encoding="utf-8")], 400)
    exported = export.Exported(params, fields, bpe, [])
    export.to_folder(exported, folder / "hf", dtype="float32")
    export.to_gguf(exported, folder / "model.gguf", dtype="float32")


def _measure(code: str, devices: int = 1) -> float:
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([sys.executable, "-c", _PROBE + code], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr)
    values = json.loads(done.stdout.strip().splitlines()[-1])
    return values["grown"] / values["size"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=120, help="parameters of the model, about")
    millions = parser.parse_args().millions
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        _make(path, millions)
        rows = [
            ("ours, hf: to float32", _OURS.format(kind="hf", path=path / "hf", dtype="float32"), 1),
            ("ours, hf: to bfloat16", _OURS.format(kind="hf", path=path / "hf", dtype="bfloat16"), 1),
            (
                "ours, hf: to float32, split over 8 devices",
                _OURS.format(kind="hf", path=path / "hf", dtype="float32"),
                8,
            ),
            ("ours, gguf: to float32", _OURS.format(kind="gguf", path=path / "model.gguf", dtype="float32"), 1),
        ]
        if importlib.util.find_spec("transformers") and importlib.util.find_spec("torch"):
            rows.append(("transformers, float32", _THEIRS.format(path=path / "hf", dtype="float32"), 1))
        size = (path / "hf/model.safetensors").stat().st_size / 1e6
        print(f"file of {size:.0f} MB in float32; peak memory over the bytes of the parameters:")
        for name, code, devices in rows:
            print(f"  {name:<45} {_measure(code, devices):.2f}", flush=True)


if __name__ == "__main__":
    main()
