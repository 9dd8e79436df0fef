// Has the real cuDNN plan every convolution of backbones, forward and backward, for a GPU that is
// not there (src/backend/cuda/models.c), with a stand-in for the driver. A problem that occurs twice
// is planned once. Fails where the library refuses one; prints a row for each problem.
//
// usage: test_plan GPU TYPE [BACKBONE...]; without names, all of them
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "exec/lower.h"
#include "model/registry.h"

enum { BATCH = 64, PROBLEMS_MAX = 4096 };

typedef struct Problems {
  StepDesc seen[PROBLEMS_MAX];
  int count, refused;
} Problems;

static void check(Status status, const char *what) {
  if (status == STATUS_OK) return;
  fprintf(stderr, "%s: %s\n", what, status_message());
  exit(1);
}

// The same problem for the library: everything but the layer's name.
static bool is_known(const Problems *problems, const StepDesc *desc) {
  for (int i = 0; i < problems->count; i++) {
    StepDesc known = problems->seen[i];
    known.name = desc->name;
    known.layer = desc->layer;
    if (memcmp(&known, desc, sizeof known) == 0) return true;
  }
  return false;
}

static void plan(Problems *problems, const Backend *backend, Device *device, const StepDesc *desc,
                 const char *backbone) {
  const StepImpl *impl = backend->steps[desc->kind];
  StepNeeds needs = {0};
  void *state = NULL;
  double start_s = clock_now_s();
  Status status = impl->plan(&state, device, desc, &needs);
  printf("%-24s %3lldx%-3lld %5lld -> %-5lld %dx%d stride %d groups %d%s: ", backbone,
         (long long)desc->inputs[0].dim[0], (long long)desc->inputs[0].dim[1],
         (long long)desc->inputs[0].dim[2], (long long)desc->output.dim[2], desc->kernel_h,
         desc->kernel_w, desc->stride_h, desc->groups, desc->has_bias ? " bias" : "");
  if (status == STATUS_OK)
    printf("scratch %.2f MiB, planned in %.2f s\n", (double)needs.scratch_size * 0x1p-20,
           clock_now_s() - start_s);
  else printf("REFUSED: %s\n", status_message());
  fflush(stdout);
  problems->refused += status != STATUS_OK;
  if (status == STATUS_OK) impl->unplan(state);
  if (problems->count < PROBLEMS_MAX) problems->seen[problems->count++] = *desc;
}

static void plan_backbone(Problems *problems, const Backend *backend, Device *device, DType dtype,
                          const char *name) {
  Graph *graph;
  Program *program;
  check(model_build(&graph, &(ModelSpec){.backbone = name,
                                         .class_count = 1000,
                                         .fine_tune = true,
                                         .batch_norm_momentum = -1.0,
                                         .batch_norm_epsilon = -1.0,
                                         .stochastic_depth = -1.0}),
        name);
  check(program_create(&program, &(ProgramDesc){.graph = graph, .mode = LOWER_TRAINING}), name);
  for (int i = 0; i < program->step_count; i++) {
    StepDesc desc = program->steps[i].desc;
    desc.batch = BATCH;
    desc.dtype = dtype;
    if (desc.kind == STEP_CONV2D && !is_known(problems, &desc))
      plan(problems, backend, device, &desc, name);
  }
  program_free(program);
  graph_free(graph);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: test_plan GPU fp32|bf16|fp16 [BACKBONE...]\n");
    return 64;
  }
  const Backend *backend = backend_find("cuda");
  Device *device;
  DType dtype = DTYPE_F32;
  while (dtype <= DTYPE_F16 && strcmp(dtype_name(dtype), argv[2]) != 0) dtype++;
  check(backend->device_open(&device, &(DeviceDesc){.model = argv[1]}), argv[1]);
  static Problems problems;
  for (int i = 3; i < argc; i++) plan_backbone(&problems, backend, device, dtype, argv[i]);
  for (int i = 0; argc == 3 && i < model_count(); i++)
    plan_backbone(&problems, backend, device, dtype, model_at(i)->name);
  backend->device_close(device);
  printf("%d convolutions for %s in %s, %d refused\n", problems.count, argv[1], argv[2],
         problems.refused);
  return problems.refused || problems.count == 0;
}
