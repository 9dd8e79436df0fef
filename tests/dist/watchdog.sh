#!/bin/sh
# Ranks that die, hang, are stopped or do not answer: each job ends in time, with the right exit
# code and a flight file of each rank that lived.
#   watchdog.sh MPIEXEC STALL
. "$(dirname "$0")/jobs.sh"

start 4 60 60 100000 none
mark
kill -9 "$(pid_of 2)"
finish 'kill -9 of a rank' fails 5000

start 2 60 60 20 none
mark
finish 'nothing wrong' 0 20000
[ ! -e "$run/flight.0.json" ] || fail 'a flight file of a job that ended well'

mark
start 3 2 60 100000 hang
finish 'a rank that hangs' 75 7000
flights 'a rank that hangs' 0 1 2
grep -q "stall: .* rank 0: no progress for 2\.[0-9] s, at step 5 in 'sum'" "$work/output" ||
  fail 'a rank that hangs: no line that names rank, seconds, step and phase'
grep -q "at step 5 in 'forward'" "$work/output" || fail 'the line of the rank that hangs'

# Stopped for less than the limit of the others: nobody notices.
start 3 4 60 150 none
mark
kill -STOP "$(pid_of 1)"
sleep 2
kill -CONT "$(pid_of 1)"
finish 'a short stop' 0 15000
[ ! -e "$run/flight.0.json" ] || fail 'a short stop: flight file'

# All stopped for longer than the limit: time asleep is nobody's fault.
start 2 1.5 60 100 none
mark
kill -STOP "$(pid_of 0)" "$(pid_of 1)"
sleep 3
kill -CONT "$(pid_of 0)" "$(pid_of 1)"
finish 'all stopped for long' 0 15000

start 3 2 60 100000 none
mark
kill -STOP "$(pid_of 1)"
finish 'a rank stopped for good' 75 8000
flights 'a rank stopped for good' 0 2

start 2 60 1.5 100000 deaf
mark
kill -USR1 $job
finish 'a request to stop that nobody answers' 75 6000
flights 'a request to stop that nobody answers' 0 1

start 2 60 30 100000 deaf
mark
kill -USR1 $job
sleep 1.5
kill -USR1 $job
finish 'a second request to stop' 75 6000

# Launchers tell one rank after the other.
start 2 60 1 100000 save
mark
kill -USR1 "$(pid_of 0)"
sleep 0.1
kill -USR1 "$(pid_of 1)"
finish 'a request to stop during a save' 0 8000

finish_all
