// Times steps against what the device allows: `bench_steps [THREADS [WORD [BACKEND [BATCH [FILE]]]]]`,
// of the shapes whose name holds WORD ("": all), on "cpu" or "cuda". For each the best of several
// runs and its ratio to a floor, the longer of two times: in which this device copies as many bytes
// as the passes named in the step's file must move, and in which it does as many multiplications in
// one large 1 x 1 convolution of that type. FILE takes a line of JSON for each as well. A depthwise
// convolution is also run as a grouped one, which a library does. On a GPU a run is several calls
// and one wait, with a batch that its cache cannot hold (256). Not a test: run it by hand, on a
// machine that does nothing else.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"

typedef struct Shot {
  const char *name;
  StepDesc desc;
  double forward_passes, backward_passes; // over a value of the output's size
} Shot;

#define HWC(...)                                                                                   \
  {                                                                                                \
    .rank = 3, .dim = { __VA_ARGS__ }                                                              \
  }
#define NORM(h, c, act, inputs_)                                                                   \
  {                                                                                                \
    .kind = STEP_NORM, .input_count = inputs_, .inputs = {HWC(h, h, c), HWC(h, h, c)},             \
    .output = HWC(h, h, c), .activation = act, .epsilon = 1e-3, .use_batch_statistics = true       \
  }
#define DEPTHWISE(h, o, c, k, s, before, after)                                                    \
  {                                                                                                \
    .kind = STEP_DEPTHWISE_CONV2D, .input_count = 1, .inputs = {HWC(h, h, c)},                     \
    .output = HWC(o, o, c), .kernel_h = k, .kernel_w = k, .stride_h = s, .stride_w = s, .pads = {  \
      before,                                                                                      \
      after,                                                                                       \
      before,                                                                                      \
      after                                                                                        \
    }                                                                                              \
  }
#define POINTWISE(h, i, o)                                                                         \
  {                                                                                                \
    .kind = STEP_CONV2D, .input_count = 1, .inputs = {HWC(h, h, i)}, .output = HWC(h, h, o),       \
    .kernel_h = 1, .kernel_w = 1, .stride_h = 1, .stride_w = 1                                     \
  }
#define CONV3X3(h, c)                                                                              \
  {                                                                                                \
    .kind = STEP_CONV2D, .input_count = 1, .inputs = {HWC(h, h, c)}, .output = HWC(h, h, c),       \
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1, .pads = { 1, 1, 1, 1 }             \
  }
#define EXCITE(h, c, s)                                                                            \
  {                                                                                                \
    .kind = STEP_SQUEEZE_EXCITE, .input_count = 1, .inputs = {HWC(h, h, c)},                       \
    .output = HWC(h, h, c), .squeeze = s, .activation = ACTIVATION_SWISH,                          \
    .gate = ACTIVATION_SIGMOID                                                                     \
  }
#define ADD(h, c, act)                                                                             \
  {                                                                                                \
    .kind = STEP_ADD, .input_count = 2, .inputs = {HWC(h, h, c), HWC(h, h, c)},                    \
    .output = HWC(h, h, c), .activation = act                                                      \
  }

static const Shot shots[] = {
    {"norm relu6 112 96", NORM(112, 96, ACTIVATION_RELU6, 1), 3, 5},
    {"norm swish 112 96", NORM(112, 96, ACTIVATION_SWISH, 1), 3, 5},
    {"norm relu 56 256 + r", NORM(56, 256, ACTIVATION_RELU, 2), 4, 7},
    {"norm relu 56 64", NORM(56, 64, ACTIVATION_RELU, 1), 3, 5},
    {"norm swish 28 240", NORM(28, 240, ACTIVATION_SWISH, 1), 3, 5},
    {"norm relu6 14 384", NORM(14, 384, ACTIVATION_RELU6, 1), 3, 5},
    {"norm relu6 7 960", NORM(7, 960, ACTIVATION_RELU6, 1), 3, 5},
    {"excite 56 144", EXCITE(56, 144, 6), 3, 4},
    {"excite 14 480", EXCITE(14, 480, 20), 3, 4},
    {"excite 7 1152", EXCITE(7, 1152, 48), 3, 4},
    {"add relu 56 256", ADD(56, 256, ACTIVATION_RELU), 3, 4},
    {"conv 112 32 16", POINTWISE(112, 32, 16), 3, 6},
    {"conv 112 16 96", POINTWISE(112, 16, 96), 1.17, 2.33},
    {"conv 56 96 24", POINTWISE(56, 96, 24), 5, 10},
    {"conv 56 24 144", POINTWISE(56, 24, 144), 1.17, 2.33},
    {"conv 56 64 256", POINTWISE(56, 64, 256), 1.25, 2.5},
    {"conv 28 192 32", POINTWISE(28, 192, 32), 7, 14},
    {"conv 14 64 384", POINTWISE(14, 64, 384), 1.17, 2.33},
    {"conv 14 576 96", POINTWISE(14, 576, 96), 7, 14},
    {"conv 14 1024 256", POINTWISE(14, 1024, 256), 5, 10},
    {"conv 7 160 960", POINTWISE(7, 160, 960), 1.17, 2.33},
    {"conv 7 1152 320", POINTWISE(7, 1152, 320), 4.6, 9.2},
    {"conv 7 320 1280", POINTWISE(7, 320, 1280), 1.25, 2.5},
    {"conv 7 512 2048", POINTWISE(7, 512, 2048), 1.25, 2.5},
    {"conv 3x3 56 64", CONV3X3(56, 64), 2, 4},
    {"conv 3x3 28 128", CONV3X3(28, 128), 2, 4},
    {"conv 3x3 14 256", CONV3X3(14, 256), 2, 4},
    {"conv 3x3 7 512", CONV3X3(7, 512), 2, 4},
    {"dw 3x3 112 32", DEPTHWISE(112, 112, 32, 3, 1, 1, 1), 2, 4},
    {"dw 3x3/2 112 96", DEPTHWISE(112, 56, 96, 3, 2, 0, 1), 5, 10},
    {"dw 3x3 56 144", DEPTHWISE(56, 56, 144, 3, 1, 1, 1), 2, 4},
    {"dw 3x3 28 192", DEPTHWISE(28, 28, 192, 3, 1, 1, 1), 2, 4},
    {"dw 3x3 14 384", DEPTHWISE(14, 14, 384, 3, 1, 1, 1), 2, 4},
    {"dw 3x3/2 14 576", DEPTHWISE(14, 7, 576, 3, 2, 0, 1), 5, 10},
    {"dw 3x3 7 960", DEPTHWISE(7, 7, 960, 3, 1, 1, 1), 2, 4},
    {"dw 5x5/2 56 144", DEPTHWISE(56, 28, 144, 5, 2, 1, 2), 5, 10},
    {"dw 5x5 28 240", DEPTHWISE(28, 28, 240, 5, 1, 2, 2), 2, 4},
    {"dw 5x5 14 672", DEPTHWISE(14, 14, 672, 5, 1, 2, 2), 2, 4},
    {"dw 5x5 7 1152", DEPTHWISE(7, 7, 1152, 5, 1, 2, 2), 2, 4},
};

enum { BATCH = 16, RUNS = 12, CALLS = 10 };

static void die(void) {
  fprintf(stderr, "%s\n", status_message());
  exit(1);
}

static void *allocate(const Backend *backend, Device *device, size_t size_bytes) {
  void *memory;
  if (backend->memory_alloc(device, &memory, size_bytes + 64) != STATUS_OK) die();
  return memory;
}

static void *new_value(const Backend *backend, Device *device, const StepDesc *desc, Shape shape) {
  int64_t count = desc->batch * shape_count(shape);
  float *dense = malloc((size_t)count * sizeof *dense);
  for (int64_t i = 0; i < count; i++) dense[i] = (float)((i * 7919) % 1000) / 500.0f - 1.0f;
  void *value =
      allocate(backend, device, backend->value_size(device, shape, desc->batch, desc->dtype));
  if (backend->value_import(device, value, shape, desc->batch, desc->dtype, dense) != STATUS_OK)
    die();
  free(dense);
  return value;
}

// Until the device has done all it was asked to.
static void wait(const Backend *backend, Device *device, const void *memory) {
  int32_t word;
  if (backend->copy_to_host(device, &word, memory, sizeof word) != STATUS_OK) die();
}

static bool is_host(const Backend *backend) {
  return strcmp(backend->name, "cpu") == 0;
}

// The weights of a convolution or a matrix that add up in one output; 0: no product.
static double weights_of_output(const StepDesc *desc) {
  double in = (double)shape_channels(desc->inputs[0]);
  if (desc->kind == STEP_DENSE) return in;
  if (desc->kind == STEP_DEPTHWISE_CONV2D) return desc->kernel_h * desc->kernel_w;
  if (desc->kind == STEP_CONV2D) return desc->kernel_h * desc->kernel_w * in / desc->groups;
  return 0;
}

// Of a forward pass; a backward pass has twice as many.
static double multiplications(const StepDesc *desc) {
  return (double)(desc->batch * shape_count(desc->output)) * weights_of_output(desc);
}

typedef struct Times {
  double forward_s, backward_s;
} Times;

static Times time_step(const Backend *backend, Device *device, const StepDesc *desc) {
  const StepImpl *impl = backend->steps[desc->kind];
  StepNeeds needs;
  void *state, *memory[16];
  int used = 0;
  StepArgs args = {0};
  if (impl->plan(&state, device, desc, &needs) != STATUS_OK) die();
  for (int k = 0; k < desc->input_count; k++) {
    args.x[k] = memory[used++] = new_value(backend, device, desc, desc->inputs[k]);
    args.dx[k] = memory[used++] = new_value(backend, device, desc, desc->inputs[k]);
  }
  args.key = memory[used++] = allocate(backend, device, sizeof *args.key);
  args.y = memory[used++] = new_value(backend, device, desc, desc->output);
  args.dy = memory[used++] = new_value(backend, device, desc, desc->output);
  args.saved = memory[used++] = allocate(backend, device, needs.saved_size);
  args.scratch = memory[used++] = allocate(backend, device, needs.scratch_size);
  args.persistent = memory[used++] = allocate(backend, device, needs.persistent_size);
  // Those of a gate and of norms are fewer than 100 a channel.
  size_t parameters = (size_t)((double)shape_channels(desc->output) *
                               fmax(weights_of_output(desc), 100) * sizeof(float));
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    args.params[k] = allocate(backend, device, parameters);
    args.dparams[k] = allocate(backend, device, parameters);
  }
  if (impl->prepare && impl->prepare(state, &args) != STATUS_OK) die();
  Times best = {INFINITY, INFINITY};
  int calls = is_host(backend) ? 1 : CALLS;
  for (int r = 0; r < RUNS; r++) {
    double start = clock_now_s();
    for (int i = 0; i < calls; i++)
      if (impl->forward(state, &args) != STATUS_OK) die();
    wait(backend, device, args.y);
    double middle = clock_now_s();
    for (int i = 0; i < calls; i++)
      if (impl->backward(state, &args) != STATUS_OK) die();
    wait(backend, device, args.dx[0]);
    best.forward_s = fmin(best.forward_s, (middle - start) / calls);
    best.backward_s = fmin(best.backward_s, (clock_now_s() - middle) / calls);
  }
  impl->unplan(state);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    backend->memory_free(device, (void *)(uintptr_t)args.params[k]);
    backend->memory_free(device, args.dparams[k]);
  }
  for (int i = 0; i < used; i++) backend->memory_free(device, memory[i]);
  return best;
}

// Bytes a second of a scaling, read and written, far beyond the caches.
static double copy_speed(const Backend *backend, Device *device) {
  int64_t floats = (int64_t)(is_host(backend) ? 32 : 512) << 20;
  float *memory = allocate(backend, device, (size_t)floats * sizeof(float));
  double best = INFINITY;
  for (int r = 0; r < 8; r++) {
    double start = clock_now_s();
    if (backend->vector_scale(device, memory, memory, 1.0f, floats) != STATUS_OK) die();
    wait(backend, device, memory);
    best = fmin(best, clock_now_s() - start);
  }
  backend->memory_free(device, memory);
  return 2.0 * (double)floats * sizeof(float) / best;
}

static StepDesc describe(const Shot *shot, int64_t batch, DType dtype) {
  StepDesc desc = shot->desc;
  desc.name = shot->name;
  desc.batch = batch;
  desc.dtype = dtype;
  desc.training = desc.need_dparams = desc.need_dx[0] = desc.need_dx[1] = true;
  desc.dilation = desc.groups = 1;
  return desc;
}

// Multiplications a second of a large 1 x 1 convolution, which is a matrix product; 0 where the
// device has none of the type.
static double product_speed(const Backend *backend, Device *device, DType dtype) {
  int64_t channels = is_host(backend) ? 1024 : 4096;
  Shot shot = {.name = "product", .desc = POINTWISE(32, channels, channels)};
  StepDesc desc = describe(&shot, is_host(backend) ? 2 : 16, dtype);
  if (!backend->device_multiplies(device, dtype)) return 0;
  return multiplications(&desc) / time_step(backend, device, &desc).forward_s;
}

typedef struct Speeds {
  double bytes_s, products_s; // the latter of the step's type
} Speeds;

static double floor_s(const Speeds *speeds, double bytes, double products) {
  double products_s = speeds->products_s > 0 ? products / speeds->products_s : 0;
  return fmax(bytes / speeds->bytes_s, products_s);
}

static void report(const Shot *shot, const StepDesc *desc, Times times, const Speeds *speeds,
                   FILE *json) {
  double bytes =
      (double)(desc->batch * shape_count(desc->output)) * (double)dtype_size(desc->dtype);
  double products = desc->kind == STEP_CONV2D && desc->groups == 1 ? multiplications(desc) : 0;
  double forward = floor_s(speeds, shot->forward_passes * bytes, products);
  double backward = floor_s(speeds, shot->backward_passes * bytes, 2 * products);
  printf("%-22s %-5s forward %8.3f ms (floor x %4.2f)  backward %8.3f ms (x %4.2f)\n", shot->name,
         dtype_name(desc->dtype), times.forward_s * 1e3, times.forward_s / forward,
         times.backward_s * 1e3, times.backward_s / backward);
  if (json)
    fprintf(json,
            "{\"step\": \"%s\", \"dtype\": \"%s\", \"batch\": %lld, \"forward_s\": %.4g, "
            "\"forward_floor_s\": %.4g, \"backward_s\": %.4g, \"backward_floor_s\": %.4g}\n",
            shot->name, dtype_name(desc->dtype), (long long)desc->batch, times.forward_s, forward,
            times.backward_s, backward);
}

static void run_shot(const Backend *backend, Device *device, const Shot *shot, int64_t batch,
                     DType dtype, const Speeds *speeds, FILE *json) {
  StepDesc desc = describe(shot, batch, dtype);
  bool library_can = backend->device_multiplies(device, dtype);
  if (desc.kind == STEP_CONV2D && !library_can) return;
  report(shot, &desc, time_step(backend, device, &desc), speeds, json);
  if (desc.kind != STEP_DEPTHWISE_CONV2D || !library_can) return;
  char name[64];
  snprintf(name, sizeof name, "%s, grouped", shot->name);
  Shot grouped = *shot;
  grouped.name = name;
  desc.kind = STEP_CONV2D;
  desc.groups = (int)shape_channels(desc.output);
  report(&grouped, &desc, time_step(backend, device, &desc), speeds, json);
}

int main(int argc, char **argv) {
  const Backend *backend = backend_find(argc > 3 ? argv[3] : "cpu");
  if (!backend) return fprintf(stderr, "there is no backend %s here\n", argv[3]), 64;
  int64_t batch = argc > 4 ? atoll(argv[4]) : is_host(backend) ? BATCH : 256;
  Device *device;
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  DeviceDesc device_desc = {.threads = threads > 0 ? threads : 1};
  if (backend->device_open(&device, &device_desc) != STATUS_OK) die();
  FILE *json = argc > 5 ? fopen(argv[5], "w") : NULL;
  if (argc > 5 && !json) return perror(argv[5]), 73;
  static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
  Speeds speeds[3] = {{.bytes_s = 0}};
  int type_count = is_host(backend) ? 2 : 3;
  double bytes_s = copy_speed(backend, device);
  printf("%s, %d threads, batch %lld, memory %.1f GB/s", backend->name, device_desc.threads,
         (long long)batch, bytes_s / 1e9);
  for (int t = 0; t < type_count; t++) {
    speeds[t] = (Speeds){bytes_s, product_speed(backend, device, types[t])};
    printf(", %s %.2f TFLOP/s", dtype_name(types[t]), 2 * speeds[t].products_s / 1e12);
  }
  printf("\n");
  for (size_t i = 0; i < sizeof shots / sizeof shots[0]; i++)
    for (int t = 0; t < type_count && (argc <= 2 || strstr(shots[i].name, argv[2])); t++)
      run_shot(backend, device, &shots[i], batch, types[t], &speeds[t], json);
  if (json && fclose(json) != 0) return perror(argv[5]), 74;
  backend->device_close(device);
  return 0;
}
