#!/bin/sh
# What the image of training runs: an agent of the W&B sweep that WANDB_SWEEP_ID names (arguments are the agent's, such
# as `--count 5`), or any command of onesheet (`sweep --trials 20`); without arguments, `onesheet train`.
set -eu
# A checkpoint is written here first and then moved, which is all or nothing on one disk only.
export TMPDIR="${TMPDIR:-/onesheet/tmp}"
mkdir -p "$TMPDIR"
if [ -n "${WANDB_SWEEP_ID:-}" ]; then
  exec wandb agent "$@" "$WANDB_SWEEP_ID"
fi
exec onesheet "${@:-train}"
