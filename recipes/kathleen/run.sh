#!/usr/bin/env bash
# Kathleen, 45 minutes of one speaker: KATHLEEN=FOLDER recipes/kathleen/run.sh [FIRST [LAST]]; see README.md.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

OUT=${OUT:-runs/kathleen}
PREPARE=(corpus=folder corpus.root="${KATHLEEN:?is not set: name the folder of the recordings, as KATHLEEN=DIR}")
CLASSIFIER=(voice=en-us+f2 trainer="${CLASSIFIER_TRAINER:-classifier}")
TEACHER=(teacher="${TEACHER_SIZE:-small}" trainer="${TRAINER:-short}" trainer.batch_size=1 trainer.dtype=bfloat16)
STUDENT=(student="${STUDENT_SIZE:-small}" trainer="${TRAINER:-short}" trainer.batch_size=1 trainer.dtype=bfloat16)
EVALUATE=(--clips "${CLIPS:-50}")
stages "$@"
