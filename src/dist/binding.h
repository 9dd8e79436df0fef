// How many threads this rank should use and on which cores. A program asks once, after world_open
// and before any library makes its threads; threads inherit what the calling one may use.
//
// The rank's share follows what the launcher allows (mpirun --bind-to, Slurm's cpuset, a
// container's CPU quota, --cpus-per-task); ranks that were given the same cores divide them.
// Hardware threads of one core count as one. A rank that computes on a GPU shares the cores near it.
#ifndef IMGCLS_DIST_BINDING_H
#define IMGCLS_DIST_BINDING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"
#include "dist/world.h"

typedef struct Binding {
  int cores;          // this rank's share: the default number of threads, at least 1
  int cores_allowed;  // cores this process may run on
  int cores_machine;  // cores of the machine
  int sharers;        // ranks on this machine with the same allowed cores, this one included
  bool overcommitted; // the sharers are more than the cores
  bool near_device;   // the share is cut from the cores near the rank's device alone
  char cpus[512];     // the share as a list of processors, "0-3,8"
  char text[384];     // all of this in words, for --check
} Binding;

// Finds the share of this rank, near the device at `bus` of the PCI bus ("0000:3b:00.0"; NULL or "":
// none) where the machine says which cores that is. Collective. With `world` NULL, of a process on
// its own.
MUST_CHECK Status binding_find(Binding *out, World *world, const char *bus);

// Binds the calling thread, and those it will create, to the share. Does nothing where the share is
// all that is allowed or ranks are more than cores. Not collective.
MUST_CHECK Status binding_apply(const Binding *binding);

// Warns where `threads` computing threads of each rank are more than its cores. `setting` is where
// the number came from: "[run] threads", "--threads".
void binding_check_threads(const Binding *binding, int64_t threads, const char *setting, Log *log);

#endif
