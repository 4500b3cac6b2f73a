#!/usr/bin/env bash
# Teacher and student on one large GPU, in pieces that may each run on another machine:
#
#   recipes/kathleen/train_gpu.sh RECORDINGS STATE [SECONDS]
#
# A piece goes on from the parts in STATE (none: it begins), works for SECONDS in all, 540 by default, and leaves in
# STATE where it stands, in parts below 16 MB. The teacher trains for TEACHER_SECONDS in all, then the student for
# STUDENT_SECONDS, or until TRAINER's steps are done. Exit code 0: both are trained; 3: another piece is needed; any
# other: a piece as this one would come no further. A piece that is killed loses what it did, and nothing of STATE.
set -euo pipefail

recordings=${1:?"is not given: name the folder of the recordings"}
state=${2:?"is not given: name the folder that keeps the state between pieces"}
state=${state%/}
seconds=${3:-540}
work=${WORK:-runs/kathleen_gpu}
common=(data="$work/data" optim=adam optim.lr=1e-3 optim.warmup_steps=300 trainer="${TRAINER:-long}" trainer.ema_decay=0.9995
    trainer.audition_every=0 trainer.validate_every=1000 trainer.checkpoint_every=1000
    trainer.batch_size="${BATCH:-64}" trainer.workers="${WORKERS:-12}")

trained=

main() {
    if [ -d "$state.new" ]; then swap; fi # a piece was killed here
    mkdir -p "$work" "$state"
    if compgen -G "$state/part.*" >/dev/null; then
        cat "$state"/part.* | tar x -C "$work"
    fi
    wavenet prepare corpus=folder corpus.root="$recordings" out="$work/data" mel="${MEL:-22k}" pitch=true
    piece teacher "${TEACHER_SECONDS:-900}" \
        train "${common[@]}" run="$work/teacher" teacher="${TEACHER_SIZE:-base}" condition.pitch=true
    piece student "${STUDENT_SECONDS:-700}" \
        distill "${common[@]}" run="$work/student" student="${STUDENT_SIZE:-small}" teacher_checkpoint="$work/teacher" \
        losses.kl.begin="${SPECTRAL_STEPS:-1000}" losses.kl.ramp="${SPECTRAL_STEPS:-1000}"
}

# piece NAME BUDGET COMMAND..: the command, ended as by Ctrl-C when the budget or the time of this piece is used up.
piece() {
    local name=$1 budget=$2 spent left began=$SECONDS status=0
    spent=$(cat "$work/$name.seconds" 2>/dev/null || echo 0)
    left=$((budget - spent < seconds - SECONDS ? budget - spent : seconds - SECONDS))
    if ((spent >= budget)); then return; fi
    if ((left <= 0)) && [ -z "$trained" ]; then
        echo "preparing the data took all of the $seconds s of this piece: give it more, as SECONDS" >&2
        exit 2
    fi
    if ((left > 0)); then
        trained=yes
        timeout --signal=INT --kill-after=60 "$left" wavenet "${@:3}" || status=$?
        ((status == 0 || status == 124)) || exit 1 # it failed by itself: STATE keeps what it held
    fi
    spent=$((status == 0 && left > 0 ? budget : spent + SECONDS - began))
    echo "$spent" >"$work/$name.seconds"
    save
    ((spent >= budget)) || exit 3
}

save() {
    rm -rf "$state.tmp" && mkdir "$state.tmp"
    (cd "$work" && tar c --exclude=tensorboard --exclude=data -- *) | split -b 15000000 - "$state.tmp/part."
    mv "$state.tmp" "$state.new" # whole by now
    swap
}

# STATE.new takes the place of STATE.
swap() {
    rm -rf "$state.old"
    if [ -d "$state" ]; then mv "$state" "$state.old"; fi
    mv "$state.new" "$state"
    rm -rf "$state.old"
}

main
