#!/usr/bin/env bash
# Run an experiment on every host of the slice; its log, its run directory and compiled programs go to the bucket.
#
#   run.sh [--dry-run] RUN EXPERIMENT [FLAG...]
#   run.sh qwen3-math math_token --model Qwen/Qwen3-4B --dataset math --budget 512 1024 2048
#
# The same command again goes on: where the experiment still runs it shows its output, where it was cut off it resumes from the
# last checkpoint in gs://BUCKET/runs/RUN, on this slice or on another one.
#
# Variables: PROJECT ZONE TPU_NAME BUCKET, and POLL_SECONDS (see env.sh).
# Status: 0 done; 75 the slice was taken away (create.sh, setup.sh, and run.sh again); 1 or the experiment's own otherwise.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

while [[ ${1:-} == -* ]]; do
  common_option "$1"
  shift
done
(($# >= 2)) || misused "give a name for the run and an experiment (see run.sh --help)"
need PROJECT ZONE TPU_NAME BUCKET
check_run "$@"
name=$1
must_be_active

# Staged writes: with streaming ones nothing of a log that is still being written would survive the host. No metadata cache: a
# host must see what another one wrote. The limit lets directories be renamed, which ends the writing of a checkpoint.
mount='mkdir -p ~/bucket && { mountpoint -q ~/bucket || gcsfuse --implicit-dirs --enable-streaming-writes=false'
mount+=" --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=100000 $BUCKET ~/bucket; }"
# shellcheck disable=SC2016  # the hosts' shells expand these
launch='cd ~/adaptive_jax && PATH=~/.local/bin:$PATH RUN_ROOT=~/bucket tpu_scripts/launch.sh'

trap 'say "interrupted: $name goes on, and $TPU_NAME costs money. run.sh with the same words shows it again," \
  "delete.sh ends both"; exit 130' INT TERM
for _ in 1 2 3 4 5; do
  status=0
  on_hosts "$mount && $launch $(quoted "$@")" || status=$?
  [[ -z $DRY_RUN ]] || exit 0
  if ((status == 0)); then
    say "$name is done: gs://$BUCKET/runs/$name. $TPU_NAME is still up and costs money until delete.sh"
    exit
  fi
  # ssh ends with 255 when it loses a host, a program that was told to end with 128 or more; the state follows within minutes
  look
  for _ in 1 2 3 4 5 6; do
    if [[ $STATE != ACTIVE ]] || ((status < 128)); then break; fi
    sleep "$POLL_SECONDS"
    look
  done
  if [[ $STATE != ACTIVE ]] || ((status != 255)); then break; fi
  say "the connection broke, $name goes on: connecting again"
done
if [[ $STATE != ACTIVE ]]; then
  say "$TPU_NAME was taken away ($STATE) and costs nothing now. What $name had saved is in gs://$BUCKET/runs/$name: run" \
    "delete.sh, create.sh, setup.sh, and run.sh with the same words, which goes on from there"
  exit "$TRY_AGAIN"
fi
say "error: $name ended with status $status on at least one host; logs are in gs://$BUCKET/logs/$name. $TPU_NAME is still up" \
  "and costs money: mend this and run run.sh again, or delete.sh"
exit "$status"
