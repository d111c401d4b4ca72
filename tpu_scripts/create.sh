#!/usr/bin/env bash
# Ask for a TPU slice, and wait until it is up. From then on it costs money, until delete.sh.
#
#   create.sh [--spot] [--dry-run]
#
#   --spot      capacity that is cheaper, may be taken away at any time, and has a quota of its own
#   --dry-run   print the commands, run none
#
# Variables: PROJECT ZONE TPU_NAME ACCELERATOR_TYPE BUCKET, and RUNTIME_VERSION, VALID_FOR, POLL_SECONDS (see env.sh).
# A slice that is up already is left as it is; a request that waits already is waited for.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# image: the boot image for ACCELERATOR_TYPE (https://cloud.google.com/tpu/docs/runtimes).
image() {
  case $ACCELERATOR_TYPE in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-*) echo tpu-ubuntu2204-base ;;
    *) misused "ACCELERATOR_TYPE '$ACCELERATOR_TYPE' is not known here: give v5litepod-N (that is v5e), v5p-N, v6e-N or v4-N," \
      "or set RUNTIME_VERSION" ;;
  esac
}

# refused GCLOUD'S WORDS: why the request was refused, what to do, and whether anything costs money.
refused() {
  local reason='the request was refused, for the reason above'
  case $1 in
    *ALREADY_EXISTS* | *'already exists'*) reason="the name $TPU_NAME is taken: export another TPU_NAME" ;;
    *[Qq]uota* | *RESOURCE_EXHAUSTED*)
      reason="the quota for $ACCELERATOR_TYPE in $ZONE is used up: ask for more (console, IAM, Quotas, Cloud TPU API), take a"
      reason+=" smaller ACCELERATOR_TYPE, another ZONE, or --spot, which has a quota of its own. Dead requests hold quota until"
      reason+=" they are deleted: gcloud compute tpus queued-resources list --zone=$ZONE"
      ;;
  esac
  look
  [[ $STATE == NONE ]] || die "$reason. There is one named $TPU_NAME, $STATE, which may cost money: delete.sh removes it"
  die "$reason. Nothing was created, nothing costs money"
}

request() {
  local words
  words=$(mktemp)
  tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
    --runtime-version="$RUNTIME_VERSION" --valid-until-duration="$VALID_FOR" ${tier[@]+"${tier[@]}"} 2>"$words" || {
    cat "$words" >&2
    refused "$(<"$words")"
  }
  rm -f "$words"
}

wait_until_active() {
  local last=''
  until look && [[ $STATE == ACTIVE || -n $DRY_RUN ]]; do
    [[ $STATE == "$last" ]] || say "$TPU_NAME is $STATE"
    last=$STATE
    case $STATE in
      NONE) die "$TPU_NAME is gone, somebody else deleted it: nothing of that name costs money" ;;
      FAILED | SUSPENDING | SUSPENDED)
        tpus queued-resources describe "$TPU_NAME" --format='yaml(state)' >&2 || true
        die "$TPU_NAME is $STATE: no capacity within $VALID_FOR, no quota, or taken away while it was set up (see above)." \
          "Nothing is left that costs money. The dead request holds its name, and maybe quota: run delete.sh, then create.sh"
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

tier=()
for word in "$@"; do
  case $word in
    --spot) tier=(--spot) ;;
    *) common_option "$word" ;;
  esac
done
need PROJECT ZONE TPU_NAME ACCELERATOR_TYPE BUCKET
RUNTIME_VERSION=${RUNTIME_VERSION:-$(image)}

# asked before anything costs money: without a bucket a run could not be kept
bucket=$(run gcloud storage buckets describe "gs://$BUCKET" --project="$PROJECT" --format='value(name)') ||
  die "bucket $BUCKET cannot be read. Nothing was created, nothing costs money. If there is no such bucket:
  gcloud storage buckets create gs://$BUCKET --project=$PROJECT --location=${ZONE%-*} --uniform-bucket-level-access" \
    "--enable-hierarchical-namespace"
[[ -z $DRY_RUN ]] || echo "$bucket"

look
trap 'say "interrupted: if the request was made, $TPU_NAME stays in the queue and costs money as soon as it is up." \
  "create.sh waits on, delete.sh takes it back"; exit 130' INT TERM
if [[ $STATE == NONE || -n $DRY_RUN ]]; then
  request
elif [[ -n $TYPE && $TYPE != "$ACCELERATOR_TYPE" ]]; then
  die "the name $TPU_NAME is taken by a $TYPE ($STATE), and you ask for a $ACCELERATOR_TYPE: export another TPU_NAME, or run" \
    "delete.sh. Nothing new was created; what is there may cost money"
else
  say "$TPU_NAME exists already: nothing new is asked for"
fi
wait_until_active
[[ -n $DRY_RUN ]] || say "$TPU_NAME is ACTIVE and costs money until delete.sh. Next: setup.sh"
