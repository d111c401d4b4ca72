# shellcheck shell=bash source-path=SCRIPTDIR
# shellcheck disable=SC2034  # the scripts that source this use them
#
# What the launch scripts share: messages, --dry-run, the state of a slice, commands on its hosts. Sourced, not run.

# shellcheck source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

DRY_RUN='' # not empty: print commands instead of running them
FOUND=''   # what `find_it` found
STATE=''   # of the queued resource TPU_NAME, as `look` found it; NONE if there is none
TYPE=''    # its accelerator type
readonly TRY_AGAIN=75 # exit status of a run whose slice was taken away (EX_TEMPFAIL of sysexits.h)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# misused MESSAGE: the command line or a variable is wrong.
misused() {
  say "error: $*"
  exit 2
}

# usage: the comment that opens the script.
usage() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p;}' "$0"; }

# common_option WORD: an option that every script has.
common_option() {
  case $1 in
    --dry-run) DRY_RUN=1 ;;
    -h | --help)
      usage
      exit
      ;;
    *) misused "unknown option '$1' (see ${0##*/} --help)" ;;
  esac
}

# check_run RUN EXPERIMENT FLAG...: what run.sh and launch.sh are given.
check_run() {
  local word experiments
  experiments=$(dirname "${BASH_SOURCE[0]}")/../experiments
  [[ $1 =~ ^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$ ]] || misused "run '$1': give lower-case letters, digits and dashes"
  [[ -f $experiments/$2.py ]] || misused "experiment '$2': there is no experiments/$2.py"
  for word in "${@:3}"; do
    case $word in
      --run-dir | --run-dir=* | --resume) misused "leave out $word: the run's name says where it is and what it resumes" ;;
      --distributed) misused "leave out $word: it is always given" ;;
    esac
  done
}

# quoted WORD...: the words as a shell reads them back, on one line.
quoted() {
  local word line='' apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) line+=" '${word//$apostrophe/$escaped}'" ;;
      *) line+=" $word" ;;
    esac
  done
  printf '%s\n' "${line# }"
}

# run COMMAND...: runs it, or prints it under --dry-run.
run() {
  if [[ -n $DRY_RUN ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# tpus WORD...: gcloud compute tpus, in the project and zone, without questions.
tpus() { run gcloud compute tpus "$@" --zone="$ZONE" --project="$PROJECT" --quiet; }

# find_it GROUP FORMAT: sets FOUND to what gcloud tells of TPU_NAME, empty if there is no such thing. Stops if it cannot.
find_it() {
  local words
  FOUND=''
  if [[ -n $DRY_RUN ]]; then
    tpus "$1" describe "$TPU_NAME" --format="$2"
    return
  fi
  words=$(mktemp)
  FOUND=$(tpus "$1" describe "$TPU_NAME" --format="$2" 2>"$words") || [[ $(<"$words") == *NOT_FOUND* ]] || {
    cat "$words" >&2
    rm -f "$words"
    die "cannot see whether $TPU_NAME is up and costs money: mend this and run me again, or delete.sh"
  }
  rm -f "$words"
}

# look: sets STATE and TYPE. Under --dry-run both stay empty.
look() {
  find_it queued-resources 'value(state.state,tpu.nodeSpec[0].node.acceleratorType)'
  [[ -n $DRY_RUN ]] || read -r STATE TYPE <<<"${FOUND:-NONE}"
}

# must_be_active: stops unless the slice is up.
must_be_active() {
  look
  case $STATE in
    ACTIVE | '') ;;
    NONE) die "there is no $TPU_NAME in $ZONE: run create.sh first" ;;
    FAILED | SUSPENDING | SUSPENDED) die "$TPU_NAME is $STATE, its slice is gone: run delete.sh, then create.sh" ;;
    *) die "$TPU_NAME is $STATE, not yet ACTIVE: run create.sh, which waits for it" ;;
  esac
}

# on_hosts COMMAND: runs a shell command line on every host of the slice at once; fails if it fails on one of them.
on_hosts() { tpus tpu-vm ssh "$TPU_NAME" --worker=all --command="$1"; }
