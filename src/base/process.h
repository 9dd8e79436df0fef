// What Linux knows of this process's memory.
#ifndef IMGCLS_BASE_PROCESS_H
#define IMGCLS_BASE_PROCESS_H

#include <stddef.h>

// Bytes of memory that this process holds now, and the most that it has held; 0 where /proc does
// not tell.
size_t process_memory_held(void);
size_t process_memory_peak(void);

#endif
