// The stand-ins are part of the program: there is nothing to load late. See standin.h.
#include "standin.h"

int cuda__libraries_load(void);
int cuda__libraries_load(void) {
  return standin_call_fails() ? standin_missing("libcudnn.so.9") : 0;
}
