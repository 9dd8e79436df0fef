// Speeds of a device. See device_speeds.h.
//
// Work is doubled until one run of it takes long enough to fill the device, or is as large as any
// device needs: a GPU does not notice what fills a processor.
#include "tool/device_speeds.h"

#include "base/clock.h"
#include "base/memory.h"

static const double long_enough_s = 0.01;
static const double patience_s = 0.5; // with all samples, by the host's clock
enum { SAMPLES = 3 };

// Something to be timed: what one run of it does.
typedef struct Work {
  const Backend *backend;
  Device *device;
  Status (*run)(struct Work *work);
  void *memory; // of a pass
  int64_t floats;
  const StepImpl *convolution;
  void *state;
  StepArgs args;
} Work;

// --- timing ---

// The shortest of a few runs, behind one that nobody times.
static Status time_samples(double *out_s, Work *work, Timeline *timeline) {
  double seconds[SAMPLES];
  TRY(work->run(work));
  for (int i = 0; i < SAMPLES; i++) {
    TRY(work->backend->timeline_mark(timeline));
    TRY(work->run(work));
  }
  TRY(work->backend->timeline_mark(timeline));
  TRY(work->backend->timeline_read(timeline, seconds));
  *out_s = seconds[0];
  for (int i = 1; i < SAMPLES; i++)
    if (seconds[i] < *out_s) *out_s = seconds[i];
  return STATUS_OK;
}

// `*is_enough`: more of this work would tell no more, or take too long.
static Status time_work(double *out_s, bool *is_enough, Work *work) {
  Timeline *timeline;
  TRY(work->backend->timeline_create(work->device, &timeline, SAMPLES + 1));
  double start_s = clock_now_s();
  Status status = time_samples(out_s, work, timeline);
  if (status == STATUS_OK)
    *is_enough = *out_s >= long_enough_s || clock_now_s() - start_s >= patience_s;
  work->backend->timeline_free(timeline);
  return status;
}

// --- bytes ---

static Status pass_over_memory(Work *work) {
  return work->backend->vector_scale(work->device, work->memory, work->memory, 1.0f, work->floats);
}

static Status measure_bytes(double *out, const Backend *backend, Device *device) {
  const int64_t most = 64 << 20;
  double seconds;
  bool is_enough = false;
  for (int64_t floats = 1 << 20; floats <= most && !is_enough; floats *= 2) {
    Work work = {.backend = backend, .device = device, .run = pass_over_memory, .floats = floats};
    TRY(backend->memory_alloc(device, &work.memory, (size_t)floats * sizeof(float)));
    Status status = time_work(&seconds, &is_enough, &work);
    backend->memory_free(device, work.memory);
    TRY(status);
    *out = 2.0 * (double)floats * sizeof(float) / seconds;
  }
  return STATUS_OK;
}

// --- products ---

static int64_t weight_count(const StepDesc *desc) {
  return shape_channels(desc->inputs[0]) * shape_channels(desc->output);
}

static Status multiply(Work *work) {
  return work->convolution->forward(work->state, &work->args);
}

// Numbers like those of a network: zeros take less power, and are faster where power is the limit.
static Status make_numbers(float **out, int64_t count) {
  TRY(memory_alloc(out, (size_t)count, sizeof **out));
  for (int64_t i = 0; i < count; i++) (*out)[i] = (float)(i * 7919 % 1009) / 504.0f - 1.0f;
  return STATUS_OK;
}

// Puts the operands of the product on the device: x is a value, the kernel is dense.
static Status fill_operands(void *x, void *kernel, const Work *work, const StepDesc *desc) {
  const Backend *backend = work->backend;
  int64_t inputs = desc->batch * shape_count(desc->inputs[0]), weights = weight_count(desc);
  float *numbers;
  TRY(make_numbers(&numbers, inputs > weights ? inputs : weights));
  Status status = backend->value_import(work->device, x, desc->inputs[0], desc->batch, desc->dtype,
                                        numbers);
  if (status == STATUS_OK)
    status = backend->copy_to_device(work->device, kernel, numbers,
                                     (size_t)weights * sizeof *numbers);
  if (status == STATUS_OK) status = backend->wait(work->device);
  memory_free(numbers);
  return status;
}

static Status time_product(double *out_s, bool *is_enough, Work *work, const StepDesc *desc) {
  const Backend *backend = work->backend;
  Device *device = work->device;
  StepNeeds needs = {0};
  StepArgs *args = &work->args;
  void *x = NULL, *kernel = NULL;
  Status status;
  // Input and output have one shape.
  size_t size = backend->value_size(device, desc->output, desc->batch, desc->dtype);
  GUARD(work->convolution->plan(&work->state, device, desc, &needs));
  GUARD(backend->memory_alloc(device, &x, size));
  GUARD(backend->memory_alloc(device, &kernel, (size_t)weight_count(desc) * sizeof(float)));
  GUARD(backend->memory_alloc(device, &args->y, size));
  GUARD(backend->memory_alloc(device, &args->scratch, needs.scratch_size));
  GUARD(backend->memory_alloc(device, &args->persistent, needs.persistent_size));
  GUARD(fill_operands(x, kernel, work, desc));
  args->x[0] = x;
  args->params[0] = kernel;
  if (work->convolution->prepare) GUARD(work->convolution->prepare(work->state, args));
  GUARD(time_work(out_s, is_enough, work));
out:
  backend->memory_free(device, args->persistent);
  backend->memory_free(device, args->scratch);
  backend->memory_free(device, args->y);
  backend->memory_free(device, kernel);
  backend->memory_free(device, x);
  if (work->state) work->convolution->unplan(work->state);
  return status;
}

static Status measure_products(double *out, const Backend *backend, Device *device, DType dtype) {
  enum { BATCH = 4, WIDTH = 32, FEWEST = 64, MOST = 4096 };
  double seconds;
  bool is_enough = false;
  for (int64_t channels = FEWEST; channels <= MOST && !is_enough; channels *= 2) {
    // Four pixels for each channel: input and output are larger than the kernel.
    Shape shape = SHAPE(channels / WIDTH, WIDTH, channels);
    StepDesc desc = {.kind = STEP_CONV2D,
                     .name = "product",
                     .batch = BATCH,
                     .dtype = dtype,
                     .input_count = 1,
                     .inputs = {shape},
                     .output = shape,
                     .kernel_h = 1,
                     .kernel_w = 1,
                     .stride_h = 1,
                     .stride_w = 1,
                     .dilation = 1,
                     .groups = 1};
    Work work = {.backend = backend,
                 .device = device,
                 .run = multiply,
                 .convolution = backend->steps[STEP_CONV2D]};
    TRY(time_product(&seconds, &is_enough, &work, &desc));
    *out = (double)(BATCH * shape_count(shape)) * (double)channels / seconds;
  }
  return STATUS_OK;
}

Status device_speeds_measure(DeviceSpeeds *out, const Backend *backend, Device *device,
                             DType dtype) {
  *out = (DeviceSpeeds){0};
  TRY(measure_bytes(&out->bytes_s, backend, device));
  return measure_products(&out->multiplications_s, backend, device, dtype);
}
