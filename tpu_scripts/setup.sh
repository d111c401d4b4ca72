#!/usr/bin/env bash
# Put the checked-out commit and what it needs on every host of the slice, and see that JAX finds all the chips.
#
#   setup.sh [--dry-run]
#
# Variables: PROJECT ZONE TPU_NAME, and GCSFUSE_VERSION (see env.sh). May be run again, with the same commit or another one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# step WHAT COMMAND...: something that every host must manage.
step() {
  [[ -n $DRY_RUN ]] || say "$1"
  "${@:2}" ||
    die "$1 failed on at least one host. $TPU_NAME is up and costs money: mend this and run setup.sh again, or delete.sh"
}

for word in "$@"; do common_option "$word"; done
need PROJECT ZONE TPU_NAME
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
run git -C "$checkout" diff --quiet HEAD ||
  die "$checkout has changes that are in no commit, and a run is known by its commit: commit or stash them"
must_be_active
parcel=$(mktemp -d)
trap 'rm -rf "$parcel"' EXIT

unpack='git init --quiet adaptive_jax && cd adaptive_jax && git fetch --quiet ../adaptive_jax.bundle HEAD'
unpack+=' && git checkout --quiet --force --detach FETCH_HEAD'
deb="https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$GCSFUSE_VERSION/gcsfuse_${GCSFUSE_VERSION}_amd64.deb"
gcsfuse="command -v gcsfuse >/dev/null || { curl --fail --silent --show-error --location --output gcsfuse.deb $deb"
gcsfuse+=' && sudo apt-get install --quiet --yes ./gcsfuse.deb; }'
library='cd adaptive_jax && ~/.local/bin/uv sync --quiet --no-dev --inexact && ~/.local/bin/uv pip install --quiet "jax[tpu]"'
chips='import jax; jax.distributed.initialize(); print(jax.process_index(), jax.local_device_count(), jax.device_count())'

step 'packing the commit' run git -C "$checkout" bundle create --quiet "$parcel/adaptive_jax.bundle" HEAD
step 'copying it' tpus tpu-vm scp "$parcel/adaptive_jax.bundle" "$TPU_NAME:adaptive_jax.bundle" --worker=all
step 'unpacking it' on_hosts "$unpack"
step 'installing gcsfuse' on_hosts "$gcsfuse"
step 'installing uv' on_hosts 'test -x ~/.local/bin/uv || python3 -m pip install --user --quiet uv'
step 'installing the library and JAX' on_hosts "$library"
step 'finding the chips (process, its chips, all chips)' on_hosts "cd adaptive_jax && .venv/bin/python -c '$chips'"
[[ -n $DRY_RUN ]] || say "every host of $TPU_NAME is ready; it costs money until delete.sh. Next: run.sh"
