#!/usr/bin/env bash
# LJSpeech 1.1 from download to figures: recipes/ljspeech/run.sh [FIRST [LAST]]; see README.md beside this file.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../stages.sh"

OUT=${OUT:-runs/ljspeech}
PREPARE=(corpus=ljspeech corpus.root="${CORPORA:-corpora}" corpus.download=true)
CLASSIFIER=(voice=en-us+f2 trainer="${CLASSIFIER_TRAINER:-classifier}")
TEACHER=(teacher="${TEACHER_SIZE:-paper}" trainer="${TRAINER:-long}")
STUDENT=(student="${STUDENT_SIZE:-paper}" trainer="${TRAINER:-long}")
EVALUATE=(--clips "${CLIPS:-50}")
stages "$@"
