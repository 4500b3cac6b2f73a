#!/usr/bin/env bash
# Makes the virtual environment $1 with everything that the demo and the tests need.
#
# On a machine without an NVIDIA GPU: the CPU build of PyTorch, and torchaudio without its compiled extension. The
# extension is linked against CUDA and fails to load beside a CPU build; what we use of torchaudio (resampling, filter
# banks, corpus layouts) is pure Python.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}
torch=${TORCH:-2.13.0}
torchaudio=${TORCHAUDIO:-2.11.0}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
    echo "setup: $("$python" --version) found, Python 3.11 or 3.12 needed; name one: make PYTHON=python3.11 ..." >&2
    exit 2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }

if nvidia-smi >/dev/null 2>&1; then
    pip install --quiet "torch>=2.11,<2.14" "torchaudio>=2.11,<2.14"
    extras=gpu,
else
    echo "setup: no NVIDIA GPU found: PyTorch $torch for the CPU, torchaudio $torchaudio without its CUDA extension"
    pip install --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$torch"
    pip install --quiet --no-deps "torchaudio==$torchaudio"
    rm -rf "$venv"/lib/python3.*/site-packages/torchaudio/lib
    extras=
fi
pip install --quiet --editable ".[${extras}eval,serve,dev]"
"$venv/bin/python" -c 'import torch, torchaudio; print(f"setup: torch {torch.__version__}, torchaudio {torchaudio.__version__}")'
