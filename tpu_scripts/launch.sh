#!/usr/bin/env bash
# One host's part of a run (under Slurm: one process's): the experiment, with a compilation cache, a log, and --resume.
#
#   launch.sh [--dry-run] RUN EXPERIMENT [FLAG...]
#
# Variables: RUN_ROOT, a directory that every host sees; SYNC_SECONDS (see env.sh); JAX_COMPILATION_CACHE_DIR.
# Called by run.sh, jobset.yaml and slurm.sbatch. Writes RUN_ROOT/runs/RUN, RUN_ROOT/logs/RUN/HOST-TIME.log, RUN_ROOT/jax-cache.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

while [[ ${1:-} == -* ]]; do
  common_option "$1"
  shift
done
(($# >= 2)) || misused "give a name for the run and an experiment (see launch.sh --help)"
need RUN_ROOT
check_run "$@"
name=$1 module=experiments.$2
shift 2
run_dir=$RUN_ROOT/runs/$name
process=$(hostname)${SLURM_PROCID:+-$SLURM_PROCID}
log=$RUN_ROOT/logs/$name/$process-$(date +%Y%m%d-%H%M%S).log
# Only process 0 writes the cache and all read it, so it lies where every host sees it. Left to itself, JAX keeps only what took a
# second to compile, and most of a run's programs take less.
command=(env JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$RUN_ROOT/jax-cache}"
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0}"
  uv run --no-sync python -m "$module" "$@" --run-dir "$run_dir" --resume --distributed)
if [[ -n $DRY_RUN ]]; then
  run "${command[@]}"
  exit
fi

# Held as long as the experiment lives. Its first line is the log's path, its second the experiment's status.
lock=${TMPDIR:-/tmp}/adaptive_jax-$(id -u)-$name${SLURM_PROCID:+-$SLURM_PROCID}.lock
exec 9<>"$lock"
if ! flock --nonblock 9; then
  log=$(head -n 1 "$lock")
  say "$name runs on this host already; this is its log, $log"
  tail -n 20 -F "$log" 9>&- &
  flock 9
  kill "$!" 2>/dev/null || true
  status=$(sed -n 2p "$lock")
  [[ -n $status ]] || die "$name was ended from outside, before it could say how it went"
  exit "$status"
fi

mkdir -p "$RUN_ROOT/logs/$name" "$RUN_ROOT/runs"
echo "$log" >"$lock"
: >"$log"
trap '' PIPE # whoever watches may go away, the run goes on
"${command[@]}" >>"$log" 2>&1 &
child=$!
# Told to end, wait for the experiment. Slurm and systemd tell it too, and told twice it might not save; in a container only
# process 1 is told, and passes it on.
trap '[[ $$ != 1 ]] || kill -TERM "$child"' TERM INT
tail -n +1 -F -s 0.2 --pid="$child" "$log" 9>&- &
watcher=$!
# A mounted bucket takes what was written at every sync; without one, only when the file is closed.
while sleep "$SYNC_SECONDS"; do
  sync --data "$log" "$run_dir/metrics.jsonl" || true
done 9>&- >/dev/null 2>&1 &
syncer=$!
status=0
while
  wait "$child"
  status=$?
  kill -0 "$child" 2>/dev/null
do :; done
kill "$syncer" 2>/dev/null || true
wait "$watcher" || true
echo "$status" >>"$lock"
exit "$status"
