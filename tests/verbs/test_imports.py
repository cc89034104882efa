"""What a verb does not use, it does not import."""

import subprocess
import sys

import pytest

HEAVY = (
    "jax", "flax", "optax", "orbax", "tensorstore", "grain", "numpy", "matplotlib", "tensorflow", "transformers", "torch",
    "datasets", "pyarrow", "tokenizers", "ml_collections", "rich",
)  # fmt: skip
# What is imported -> which of HEAVY it may bring.
MAY = {
    "import ptft_jax, ptft_jax.cli, ptft_jax.verbs.command, ptft_jax.verbs.config, ptft_jax.verbs.doctor, ptft_jax.verbs.bench, ptft_jax.verbs.cache": (),
    "import ptft_jax.verbs.launch, ptft_jax.jobs.tpu, ptft_jax.jobs.gke": ("numpy",),
    "import ptft_jax.reporting.comparison": ("numpy", "ml_collections"),  # ptft compare
    "import ptft_jax.runs.loading, ptft_jax.evaluation.standalone, ptft_jax.evaluation.samples": (  # eval, generate, chat
        "jax", "flax", "optax", "numpy", "ml_collections", "rich",
    ),
    "from ptft_jax import train; from ptft_jax.verbs import command; command.prepare_jax(); import ptft_jax.parallel.processes, ptft_jax.reporting.progress, ptft_jax.reporting.summary_tables, ptft_jax.training.assembly": (  # ptft train, up to its data
        "jax", "flax", "optax", "orbax", "tensorstore", "numpy", "ml_collections", "rich",
    ),
}  # fmt: skip


@pytest.mark.parametrize("imports", [pytest.param(i, marks=pytest.mark.heavy if "jax" in MAY[i] else ()) for i in MAY])
def test_only_what_is_used(imports):
    probe = f"import sys\n{imports}\nprint(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, encoding="utf-8", check=True)
    assert set(done.stdout.split()) <= set(MAY[imports])
