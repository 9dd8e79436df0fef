// What --version says: the program, how it was built and with which libraries.
#ifndef IMGCLS_CONFIG_VERSION_H
#define IMGCLS_CONFIG_VERSION_H

#include <stdio.h>

const char *version_number(void); // "0.1.0"
const char *version_commit(void); // abbreviated, "+" at the end where files differ; "unknown"
const char *version_compiler(void);  // "GNU 12.2.0"
const char *version_libraries(void); // "oneDNN 2.6.3, MPI 3.1, ...", as they were built with
void version_print(FILE *stream, const char *program);

#endif
