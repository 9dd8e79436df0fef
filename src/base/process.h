// What Linux knows of this process's memory, and of what it may still take.
#ifndef IMGCLS_BASE_PROCESS_H
#define IMGCLS_BASE_PROCESS_H

#include <stddef.h>

// Bytes of memory that this process holds now, and the most that it has held; 0 where /proc does
// not tell.
size_t process_memory_held(void);
size_t process_memory_peak(void);

// Bytes that may still be taken, by this process and all others beside it: what the machine has
// left without swapping, or the groups of processes (cgroups, as batch systems and containers make
// them) that this one belongs to. `root` is "" but in tests, where it is a folder in the place of
// /. SIZE_MAX where nothing tells.
size_t process_memory_available(const char *root);

#endif
