// imgcls-train --check: what this job would run on.
#ifndef IMGCLS_TOOL_CHECK_H
#define IMGCLS_TOOL_CHECK_H

#include "base/status.h"
#include "config/config.h"
#include "dist/world.h"

// Prints from rank 0: version, libraries, what each backend finds on rank 0's host (driver, devices,
// links), MPI, a line per rank (host, process, device, cores) as `config` places them; then tries an
// all-reduce whose sums are known. Collective.
MUST_CHECK Status check_print(const Config *config, World *world, const char *program);

#endif
