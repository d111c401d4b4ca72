# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this use them
#
# The variables of the launch scripts: what each means, its default, and what is said when it is missing. Sourced, not run.
#
# Required: PROJECT, ZONE and TPU_NAME; to create a slice also ACCELERATOR_TYPE and BUCKET, to run on it BUCKET. Export them, or
# keep them in a file of your own that you source first.

# The boot image; follows from ACCELERATOR_TYPE if not given (see create.sh).
RUNTIME_VERSION=${RUNTIME_VERSION:-}
# How long create.sh's request may wait in the queue; after that it fails, and costs nothing.
VALID_FOR=${VALID_FOR:-6h}
# Seconds between two looks at a request's state.
POLL_SECONDS=${POLL_SECONDS:-20}
# Version of gcsfuse that setup.sh installs on the TPU's hosts.
GCSFUSE_VERSION=${GCSFUSE_VERSION:-3.8.0}
# launch.sh: seconds between two uploads of a run's log and metrics.
SYNC_SECONDS=${SYNC_SECONDS:-60}

# need VARIABLE...: stops with status 2 where one is empty, after naming all that are, and where one is malformed.
need() {
  local name hint missing=0
  for name in "$@"; do
    [[ -z ${!name:-} ]] || continue
    case $name in
      PROJECT) hint='the Google Cloud project that pays, as in: export PROJECT=my-project' ;;
      ZONE) hint='a zone that has the accelerator, as in: export ZONE=us-west4-a' ;;
      TPU_NAME) hint='a name for the slice, as in: export TPU_NAME=adaptive-1' ;;
      ACCELERATOR_TYPE) hint='the kind of slice, as in: export ACCELERATOR_TYPE=v5litepod-16' ;;
      BUCKET) hint='a bucket for runs, logs and compiled programs, without gs://, as in: export BUCKET=my-bucket' ;;
      RUN_ROOT) hint='a directory that every host sees, as in: export RUN_ROOT=/shared/adaptive_jax' ;;
    esac
    printf 'error: %s is not set: %s\n' "$name" "$hint" >&2
    missing=1
  done
  ((missing == 0)) || exit 2
  if [[ " $* " == *' TPU_NAME '* && ! $TPU_NAME =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]]; then
    printf "error: TPU_NAME '%s': give lower-case letters, digits and dashes, a letter first\n" "$TPU_NAME" >&2
    exit 2
  fi
  if [[ " $* " == *' BUCKET '* && $BUCKET == *[/:]* ]]; then
    printf "error: BUCKET '%s': give the bucket's name alone, without gs:// and without a folder\n" "$BUCKET" >&2
    exit 2
  fi
}
