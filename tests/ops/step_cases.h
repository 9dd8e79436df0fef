// Private to the cases of the operation tests: a list that each kind of step appends its rows to.
#ifndef IMGCLS_TESTS_OPS_STEP_CASES_H
#define IMGCLS_TESTS_OPS_STEP_CASES_H

#include "ops/step_test.h"

#define HWC(h, w, c)                                                                               \
  {                                                                                                \
    3, {                                                                                           \
      h, w, c                                                                                      \
    }                                                                                              \
  }
#define FLAT(c)                                                                                    \
  {                                                                                                \
    1, {                                                                                           \
      c                                                                                            \
    }                                                                                              \
  }

typedef struct CaseList {
  StepCase *cases;
  int count, capacity;
} CaseList;

// A case for training, with every gradient; fields that are 0 and may not be get a usual value.
StepDesc *case_append(CaseList *list, const StepDesc *desc, const char *name);

// Of steps that look through a window (step_cases_window.c).
void cases_append_convolutions(CaseList *list); // depthwise too
void cases_append_pools(CaseList *list);
void cases_append_folded(CaseList *list);
void cases_append_statistics(CaseList *list);
void cases_append_nan_pools(CaseList *list);

#endif
