# What the recipes of all corpora share. A recipe names its folder OUT and the overrides of every stage, then calls
# `stages "$@"`: all of them, or those from FIRST to LAST. Every stage that was interrupted goes on where it stood.
#
#   1 prepare      PREPARE=()     sound files -> OUT/data: waveforms, mels, F0
#   2 classifier   CLASSIFIER=()  OUT/classifier: the ear of the perceptual loss
#   3 teacher      TEACHER=()     OUT/teacher
#   4 student      STUDENT=()     OUT/student
#   5 evaluate     EVALUATE=()    OUT/evaluation: figures, spectrograms, a page to listen

stages() {
    local first=${1:-1} last=${2:-5} names=(prepare classifier teacher student evaluate)
    if [[ ! $first$last =~ ^[1-5][1-5]$ || $first -gt $last ]]; then
        echo "stages are 1 (prepare) to 5 (evaluate), not $first to $last: give FIRST, or FIRST LAST" >&2
        return 2
    fi
    for ((stage = first; stage <= last; stage++)); do
        echo "== $stage/5 ${names[stage - 1]}"
        "stage_${names[stage - 1]}"
    done
}

stage_prepare() { wavenet prepare out="$OUT/data" pitch=true "${PREPARE[@]}"; }

stage_classifier() { wavenet train-classifier data="$OUT/data" run="$OUT/classifier" "${CLASSIFIER[@]}"; }

stage_teacher() { wavenet train data="$OUT/data" run="$OUT/teacher" condition.pitch=true "${TEACHER[@]}"; }

stage_student() {
    wavenet distill data="$OUT/data" run="$OUT/student" teacher_checkpoint="$OUT/teacher" \
        losses.perceptual.weight=1 losses.perceptual.classifier="$OUT/classifier" "${STUDENT[@]}"
}

stage_evaluate() {
    wavenet evaluate --data "$OUT/data" --out "$OUT/evaluation" \
        --checkpoint "$OUT/teacher" --checkpoint "$OUT/student" "${EVALUATE[@]}"
}
