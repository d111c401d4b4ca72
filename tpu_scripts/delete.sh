#!/usr/bin/env bash
# Delete the slice, its hosts' disks and the request for it. What is in the bucket stays.
#
#   delete.sh [--dry-run]
#
# Variables: PROJECT ZONE TPU_NAME (see env.sh). Says so, and succeeds, where there is nothing to delete.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for word in "$@"; do common_option "$word"; done
need PROJECT ZONE TPU_NAME
again='run delete.sh again, or delete it in the console (Compute Engine, TPUs)'

look
if [[ $STATE != NONE ]]; then
  tpus queued-resources delete "$TPU_NAME" --force || die "$TPU_NAME was not deleted and may still cost money: $again"
  look
  [[ $STATE == NONE || -n $DRY_RUN ]] || die "$TPU_NAME is still there, $STATE, and may cost money: $again"
fi
# a slice that was made by hand, without a request, would go on under the same name
find_it tpu-vm 'value(state)'
[[ -z $FOUND ]] || die "there is no request, but a TPU VM named $TPU_NAME is $FOUND and may cost money. If it is yours:
  gcloud compute tpus tpu-vm delete $TPU_NAME --zone=$ZONE --project=$PROJECT"
[[ -n $DRY_RUN ]] || say "nothing named $TPU_NAME is left in $ZONE to cost money. The bucket keeps what is in it"
