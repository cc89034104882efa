#!/usr/bin/env bash
# Training speed on one GPU beside PyTorch (benchmarks/gpu.py). Needs jax[cuda], and torch, transformers and peft for the peer's side; no network. 8 minutes at most.
#   benchmarks/gpu.sh [--out=FILE] [--only="124M;350M"] [--minutes=8] [--tiny]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
