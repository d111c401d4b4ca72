#!/usr/bin/env bash
# SmolLM2's experiments on one accelerator: no network, and within MINUTES. The same command goes on where it was cut off.
#
#   smollm2_one_gpu.sh [--dry-run] [--small] OUT
#
# Variables: MINUTES (8); DATA, a directory with gsm8k_train.jsonl, gsm8k_test.jsonl and ifeval_400.jsonl; PYTHON (the checkout's).
# Parts in order of weight, each with a share of the time; what one leaves goes to the next. A part whose time is up is told to
# end, and keeps what it has. OUT/PART.log is its log, OUT/PART its run. --small takes sizes of minutes on two cores.
# Ends with status 75 where a part is not done, and with 1 where one failed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

small=''
while [[ ${1:-} == -* ]]; do
  if [[ $1 == --small ]]; then small=1; else common_option "$1"; fi
  shift
done
(($# == 1)) || misused "give a directory for the runs (see ${0##*/} --help)"
out=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
data=${DATA:-../shared/data} minutes=${MINUTES:-8} python=${PYTHON:-.venv/bin/python}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || misused "MINUTES is $minutes: give a whole number"
for file in gsm8k_train gsm8k_test ifeval_400; do
  [[ -f $data/$file.jsonl ]] || misused "DATA is $data, and there is no $file.jsonl in it"
done

gym=reasoning_gym:
sums="${gym}chain_sum?min_terms=2&max_terms=2&min_digits=2&max_digits=2"
gcd="${gym}gcd?min_numbers=2&max_numbers=2&min_value=1&max_value=60"
products="${gym}products?min_terms=2&max_terms=2&min_digits=1&max_digits=2"
letters="${gym}letter_counting?min_words=1&max_words=3"
reversal="${gym}word_sequence_reversal?min_words=3&max_words=4"
arithmetic="$sums + $gcd + $products"
seven="$arithmetic + $letters + $reversal + ${gym}family_relationships + ${gym}simple_equations"
plain=(--model smollm2 --no-apply-chat-template --template experiments/question_answer.jinja)
short=("${plain[@]}" --cot none --examples 3 --reward experiments/exact_answer.py:exact --stop '\n')
gsm8k=("${plain[@]}" --cot all --examples 4 --stop '\n\n' --dataset "$data/gsm8k_test.jsonl" --train-dataset "$data/gsm8k_train.jsonl")

# size SMALL LARGE: the one that was asked for.
size() { if [[ -n $small ]]; then echo "$1"; else echo "$2"; fi; }

unfinished=() failed=() child=''
# stop STATUS: the script is told to end, and so is the experiment, which saves what it has.
stop() {
  trap - TERM INT
  [[ -z $child ]] || { kill -TERM "$child" && wait "$child"; } || true
  say "stopped; the same command goes on"
  exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT
# part NAME SHARE EXPERIMENT FLAG...: one experiment, within SHARE hundredths of the time and what earlier parts left.
part() {
  local name=$1 experiment=$3 status=0 seconds command
  granted=$((granted + $2 * minutes * 60 / 100))
  shift 3
  # told to end, an experiment saves what it has: 10 s are kept for that
  seconds=$((granted - SECONDS > 15 ? granted - SECONDS - 10 : 5))
  command=(timeout --signal=TERM --kill-after=10 "$seconds" "$python" -m "experiments.$experiment" "$@" --run-dir "$out/$name" --resume)
  if [[ -n $DRY_RUN ]]; then
    quoted "${command[@]}"
    return
  fi
  say "$name: at most $seconds s"
  "${command[@]}" >>"$out/$name.log" 2>&1 &
  child=$!
  wait "$child" || status=$?
  case $status in
    0) ;;
    124 | 130 | 137 | 143) unfinished+=("$name") ;;
    *) failed+=("$name") ;;
  esac
}

[[ -n $DRY_RUN ]] || mkdir -p "$out"
granted=0
part sequence 25 math_sequence "${short[@]}" --dataset "$seven" --budget 16 --summed-chances --completions 4 \
  --held-out-completions 8 --seeds 3 --actions experiments/results/smollm2/actions_summed/actions.json \
  --limit "$(size 14 1190)" --train-limit "$(size 28 3150)" --skip "$(size 0 2170)"
part gsm8k_sequence 25 math_sequence "${gsm8k[@]}" --budget "$(size 16 256)" --limit "$(size 2 1319)" --train-limit "$(size 4 256)" \
  --held-out-completions 8 --rows 256 --seeds 3
part token 20 math_token "${short[@]}" --dataset "$arithmetic" --budget 8 --samples 4 --completions 16 --held-out-completions 8 \
  --limit "$(size 6 600)" --train-limit "$(size 12 600)" --updates "$(size 1 100)" --prompts "$(size 3 32)" --validate-every 50
part gsm8k_token 20 math_token "${gsm8k[@]}" --budget "$(size 16 128)" "$(size 24 256)" --samples 4 --limit "$(size 2 400)" \
  --train-limit "$(size 4 512)" --updates "$(size 1 40)" --prompts "$(size 2 32)" --rows 256
part instructions 10 instructions_sequence --limit "$(size 2 400)" --train-limit "$(size 4 512)" --held-out-completions 8 \
  --budget "$(size 8 128)" --eval-dataset "$data/ifeval_400.jsonl" --seeds 3 --rows 256
((${#failed[@]} == 0)) || die "failed: ${failed[*]}; see their logs in $out"
((${#unfinished[@]} == 0)) || {
  say "not done: ${unfinished[*]}; the same command goes on"
  exit "$TRY_AGAIN"
}
