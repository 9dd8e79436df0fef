# For scripts that start jobs of stall.c and look how they end. Sourced, with the arguments
#   MPIEXEC STALL
mpiexec=$1 stall=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
  echo "FAILED: $1" >&2
  sed 's/^/  | /' "$work/output" >&2
  failures=$((failures + 1))
}

# start RANKS TIMEOUT DEADLINE STEPS MODE [TRANSPORT]: in the background; waits until all ranks are
# under way, or have ended.
start() {
  ranks=$1 run="$work/run.$5.$$.$(date +%s%N)"
  shift
  mkdir "$run"
  "$mpiexec" --oversubscribe --bind-to none -np "$ranks" "$stall" "$run" "$@" \
    >"$work/output" 2>&1 &
  job=$!
  tries=0
  while [ "$(ls "$run" | grep -c '^pid')" -lt "$ranks" ] && [ $tries -lt 200 ] &&
    kill -0 $job 2>/dev/null; do
    sleep 0.05
    tries=$((tries + 1))
  done
  sleep 0.3
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# finish NAME EXIT_CODE MILLISECONDS: the job's end, counted from the call of mark.
mark() { marked=$(now_ms); }
finish() {
  wait $job
  code=$?
  took=$(($(now_ms) - marked))
  echo "$1: exit code $code after $took ms"
  case $2 in
    fails) [ $code -ne 0 ] || fail "$1: exit code 0" ;;
    *) [ $code -eq "$2" ] || fail "$1: exit code $code, not $2" ;;
  esac
  [ $took -le "$3" ] || fail "$1: took $took ms, allowed are $3"
  sleep 0.2
  for file in "$run"/pid.*; do
    [ -e "$file" ] || continue # it ended before
    # A dead process that init has not collected yet (Z) is gone all the same.
    grep -q '^State:[[:space:]]*[DIRSTt]' "/proc/$(cat "$file")/status" 2>/dev/null &&
      fail "$1: rank ${file##*.} is still there"
  done
}

pid_of() { cat "$run/pid.$1"; }

# flights NAME RANK...: these ranks left a flight file that is whole.
flights() {
  name=$1
  shift
  for rank in "$@"; do
    "$stall" json "$run/flight.$rank.json" || fail "$name: flight file of rank $rank"
  done
}

finish_all() {
  [ $failures -eq 0 ] || { echo "$failures failed" >&2; exit 1; }
}
