#!/usr/bin/env bash
# VCTK 0.92, all speakers in one model: recipes/vctk/run.sh [FIRST [LAST]]; see README.md beside this file.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

OUT=${OUT:-runs/vctk}
PREPARE=(corpus=vctk corpus.root="${CORPORA:-corpora}" corpus.download=true trim_db=40)
CLASSIFIER=(voice=en-gb-x-rp trainer="${CLASSIFIER_TRAINER:-classifier}")
TEACHER=(teacher="${TEACHER_SIZE:-paper}" trainer="${TRAINER:-long}" condition.speaker=true)
STUDENT=(student="${STUDENT_SIZE:-paper}" trainer="${TRAINER:-long}")
EVALUATE=(--clips "${CLIPS:-50}")
stages "$@"
