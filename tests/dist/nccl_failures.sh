#!/bin/sh
# The ways in which NCCL fails, with its stand-in: each job ends in time, with the right exit code, a
# line that names the place, and a flight file of each rank that lived.
#   nccl_failures.sh MPIEXEC STALL
. "$(dirname "$0")/jobs.sh"
export STANDIN_GPUS=4

# try NAME EXIT_CODE MILLISECONDS WORDS RANKS TIMEOUT MODE: a whole job, with the stand-in told WORDS.
try() {
  export STANDIN_NCCL=$4
  mark
  start "$5" "$6" 60 100000 "$7" nccl
  finish "$1" "$2" "$3"
  unset STANDIN_NCCL STANDIN_NCCL_RANK
}

# says NAME PATTERN: what the job wrote.
says() {
  grep -Eq "$2" "$work/output" || fail "$1: no line like '$2'"
}

start 4 60 60 100000 none nccl
mark
kill -9 "$(pid_of 2)"
finish 'kill -9 of a rank' fails 5000

# Symmetric windows are for those versions alone whose kernels on them wait for what is before them.
for case in none:registered version=23006:registered version=23007:symmetric \
  version=23007,no_symmetry:registered version=23007,no_windows:registered no_registration:plain \
  version=23007,no_windows,no_registration:plain no_memory:plain; do
  words=${case%:*}
  export STANDIN_NCCL=$words
  mark
  start 2 60 60 20 none nccl
  finish "memory of NCCL: $words" 0 20000
  says "memory of NCCL: $words" "NCCL: 0\.0 MiB of sums in ${case#*:} memory"
  case $words in none | version=23006) why='need NCCL 2\.30\.7 to be safe' ;; *) why=memory ;; esac
  says "memory of NCCL: $words" "of sums in .*$why"
  [ ! -e "$run/flight.0.json" ] || fail 'a flight file of a job that ended well'
  ! grep -q 'share a GPU' "$work/output" || fail "memory of NCCL: $words: each rank has its own GPU"
  unset STANDIN_NCCL
done

# NCCL refuses ranks on one GPU, unless told otherwise in the way of its version; the user's word goes
# before ours.
export STANDIN_GPUS=2
for case in '22809:each is a host of its own' '23003:their sums are slow'; do
  export STANDIN_NCCL=version=${case%%:*}
  mark
  start 3 60 60 20 none nccl
  finish "ranks that share a GPU: $STANDIN_NCCL" 0 20000
  says "ranks that share a GPU: $STANDIN_NCCL" "NCCL: ranks share a GPU, .* trying out: ${case#*:}"
  unset STANDIN_NCCL
done
export NCCL_HOSTID=all NCCL_MULTI_RANK_GPU_ENABLE=0
for version in 22809 23003; do
  try "ranks that may not share: $version" 71 20000 version=$version 3 60 none
  says "ranks that may not share: $version" 'NCCL: cannot connect the ranks: invalid usage'
done
unset NCCL_HOSTID NCCL_MULTI_RANK_GPU_ENABLE
export STANDIN_GPUS=4

export STANDIN_NCCL=destroy_error
mark
start 2 60 60 20 none nccl
finish 'an end that fails when its work is done' 0 20000
unset STANDIN_NCCL

try 'an old NCCL' 78 8000 version=22703 2 60 none
says 'an old NCCL' 'NCCL 2\.27\.3 is too old: 2\.28\.9 or newer'

# No rank is lost then, and starting again would not help.
try 'a window that cannot be made' 78 20000 version=23007,window_error 3 60 none
says 'a window that cannot be made' \
  'rank [0-2] on [^ ]+: NCCL: cannot register memory; set NCCL_WIN_ENABLE=0 .*: unhandled system error'
export STANDIN_NCCL_RANK=1
try 'one rank cannot make it' 78 20000 version=23007,window_error 3 60 none

try 'ranks that do not find each other' 71 10000 stuck_init 3 2 none
says 'ranks that do not find each other' \
  'rank [0-2] on [^ ]+: NCCL has not connected the 3 ranks after 2 s; .*NCCL_SOCKET_IFNAME'

try 'a rank is lost' 75 8000 remote_error=6 3 60 none
flights 'a rank is lost' 0 1 2
says 'a rank is lost' \
  "stall: .* rank [0-2]: rank [0-2] on .*: NCCL: lost the other ranks: remote process.*, at step 5 in 'sum'"

export STANDIN_NCCL_RANK=1
try 'one rank alone sees it' 75 9000 remote_error=6 3 2 none
flights 'one rank alone sees it' 1

try 'an operation that is never launched' 75 9000 stuck=6 3 2 none
flights 'an operation that is never launched' 0 1 2
says 'an operation that is never launched' '(not launched an operation|no progress) for 2\.?[0-9]* s'

# All ranks wait for their streams then.
try 'an operation that is never done' 75 9000 hang=6 3 2 none
flights 'an operation that is never done' 0 1 2
says 'an operation that is never done' 'no progress for 2\.?[0-9]* s'

try 'an abort that hangs' 75 13000 remote_error=6,hang_abort 2 60 none
flights 'an abort that hangs' 0 1

try 'a rank that hangs' 75 9000 none 3 2 hang
flights 'a rank that hangs' 0 1 2

# Each call of a library fails once; a job of one rank. Errors of the last calls, in closing, have
# nobody to tell; the end is where a few calls in a row change nothing.
call=0 failed=0 quiet=0
while [ $quiet -lt 12 ] && [ $call -lt 400 ]; do
  call=$((call + 1)) quiet=$((quiet + 1))
  run="$work/call.$call"
  mkdir "$run"
  STANDIN_FAIL=$call STANDIN_NCCL=version=23007 "$stall" "$run" 20 20 2 none nccl >"$work/output" 2>&1
  code=$?
  case $code in
    0) continue ;;
    71 | 78) grep -Eq 'CUDA|NCCL|cuDNN|cuBLAS|GPU|no lib' "$work/output" || fail "call $call: no reason" ;;
    *) fail "call $call: exit code $code" ;;
  esac
  grep -q 'CUDA: result' "$work/output" && fail "call $call: a variable instead of the call"
  quiet=0 failed=$((failed + 1))
done
echo "$failed calls failed in turn"
[ $failed -ge 30 ] || fail 'too few calls have failed'

finish_all
