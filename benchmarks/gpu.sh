#!/usr/bin/env bash
# Steps per second, use and memory of the accelerator for every system, fp32 and bf16, in at most ten minutes:
#   bash benchmarks/gpu.sh             the whole table (needs an accelerator)
#   bash benchmarks/gpu.sh --tiny      small sizes on a CPU, to see that the script works
# One line of JSON per system and precision, on stdout and, where OUT is set, in $OUT/gpu.jsonl.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" -P benchmarks/gpu.py "$@" | tee "${OUT:-/tmp}/gpu.jsonl"
