// Which values of a program are written straight into the concatenation that reads them. Decided
// once an executor; see backend.h's Slice for what it means to a step.
#ifndef IMGCLS_EXEC_SLICES_H
#define IMGCLS_EXEC_SLICES_H

#include "backend/backend.h"
#include "exec/lower.h"

typedef struct ValueSlice {
  int parent; // the value that holds it; -1: it stands alone
  Slice slice;
} ValueSlice;

// Of every value; owned by the caller. A value lies in the first concatenation that it can: where
// its producer writes slices, its other readers read them, the layout allows it, and at least half
// of the concatenation is of such values. The model's input and output stand alone.
MUST_CHECK Status slices_create(ValueSlice **out, const Program *program, const Backend *backend,
                                const Device *device);

// Tells a step's description where its values lie.
void slices_describe(StepDesc *desc, const ValueSlice *slices, const Step *step);

#endif
