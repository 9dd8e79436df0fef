// The stand-ins are part of the program: there is nothing to load late. See standin.h.
#include <stddef.h>

#include "standin.h"

enum { CONFIG = 78 }; // STATUS_CONFIG, as where a library is missing

int cuda__libraries_load(void);
int cuda__libraries_load(void) { return standin_call_fails() ? CONFIG : 0; }
