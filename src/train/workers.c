// The virtual workers of this rank. See workers.h.
#include "train/workers.h"

#include "base/clock.h"
#include "base/memory.h"

enum { SPARE_INPUT = 2, INPUTS };

// What runs one worker at a time.
typedef struct Lane {
  Device *device, *own_device; // own_device: NULL where it is the one of the job
  Executor *executor;
  float *gradients;
  void *inputs;  // values of a worker each, input_size apart: of either slot, then the spare one
  KeptStatus status; // of its last worker, in the lane's thread
  double forward_s, backward_s;
} Lane;

struct Workers {
  WorkersDesc desc;
  Lane *lanes;
  int lane_count;
  bool is_timed; // the step under way
};

int64_t workers_slice_begin(int worker, int virtual_workers, int64_t batch) {
  return worker * batch / virtual_workers;
}

static int64_t slice_size(int worker, int virtual_workers, int64_t batch) {
  return workers_slice_begin(worker + 1, virtual_workers, batch) -
         workers_slice_begin(worker, virtual_workers, batch);
}

static bool runs_side_by_side(const WorkersDesc *desc) {
  return desc->reproducible && desc->backend->depends_on_threads;
}

// Whether inputs are uploaded beside other work.
static bool uploads_beside(const WorkersDesc *desc) {
  return desc->backend->transfer != NULL;
}

static size_t input_size(const Lane *lane) {
  return memory_round_up(executor_input_bytes(lane->executor));
}

static size_t inputs_bytes(const WorkersDesc *desc, const Lane *lane) {
  if (!uploads_beside(desc)) return 0;
  return (desc->count > 1 ? INPUTS : SPARE_INPUT) * input_size(lane);
}

static Status create_lane(Workers *workers, Lane *lane) {
  const WorkersDesc *desc = &workers->desc;
  lane->device = desc->device;
  if (runs_side_by_side(desc)) {
    TRY(desc->backend->device_open(&lane->own_device, &(DeviceDesc){.threads = 1}));
    lane->device = lane->own_device;
  }
  int64_t *sizes;
  TRY(memory_alloc(&sizes, (size_t)desc->batch_count * (size_t)desc->count, sizeof *sizes));
  int count = 0;
  for (int b = 0; b < desc->batch_count; b++)
    for (int w = 0; w < desc->count; w++)
      sizes[count++] = slice_size(desc->first + w, desc->virtual_workers, desc->batches[b]);
  Status status =
      executor_create(&lane->executor, &(ExecutorDesc){.backend = desc->backend,
                                                       .device = lane->device,
                                                       .graph = desc->graph,
                                                       .layout = desc->layout,
                                                       .mode = LOWER_TRAINING,
                                                       .input = desc->input,
                                                       .takes_value = uploads_beside(desc),
                                                       .dtype = desc->dtype,
                                                       .recompute = desc->recompute,
                                                       .batches = sizes,
                                                       .batch_count = count});
  memory_free(sizes);
  return status;
}

Status workers_create(Workers **out, const WorkersDesc *desc) {
  *out = NULL;
  Workers *workers;
  TRY(memory_alloc(&workers, 1, sizeof *workers));
  Status status = STATUS_OK;
  workers->desc = *desc;
  int lanes = desc->threads < desc->count ? desc->threads : desc->count;
  if (!runs_side_by_side(desc)) lanes = 1;
  GUARD(memory_alloc(&workers->lanes, (size_t)lanes, sizeof *workers->lanes));
  for (; workers->lane_count < lanes; workers->lane_count++)
    GUARD(create_lane(workers, &workers->lanes[workers->lane_count]));
  *out = workers;
  workers = NULL;
out:
  workers_free(workers);
  return status;
}

void workers_free(Workers *workers) {
  if (!workers) return;
  int lanes = workers->lanes ? workers->lane_count : 0;
  for (int i = 0; i < lanes; i++) {
    Lane *lane = &workers->lanes[i];
    executor_free(lane->executor);
    if (lane->device) workers->desc.backend->memory_free(lane->device, lane->inputs);
    if (lane->device) workers->desc.backend->memory_free(lane->device, lane->gradients);
    if (lane->own_device) workers->desc.backend->device_close(lane->own_device);
  }
  memory_free(workers->lanes);
  memory_free(workers);
}

static size_t gradient_bytes(const Workers *workers) {
  return (size_t)workers->desc.layout->reduced * sizeof(float);
}

size_t workers_memory_bytes(const Workers *workers) {
  size_t bytes = 0;
  for (int i = 0; i < workers->lane_count; i++) {
    const Lane *lane = &workers->lanes[i];
    bytes += executor_memory_bytes(lane->executor) + memory_block_bytes(gradient_bytes(workers)) +
             memory_block_bytes(inputs_bytes(&workers->desc, lane));
  }
  return bytes;
}

ExecutorConcats workers_concats(const Workers *workers) {
  return executor_concats(workers->lanes[0].executor);
}

ExecutorRecompute workers_recompute(const Workers *workers) {
  return executor_recompute(workers->lanes[0].executor);
}

Executor *workers_executor(const Workers *workers) {
  return runs_side_by_side(&workers->desc) ? NULL : workers->lanes[0].executor;
}

Status workers_allocate(Workers *workers, const float *weights) {
  for (int i = 0; i < workers->lane_count; i++) {
    Lane *lane = &workers->lanes[i];
    void *memory;
    TRY(executor_allocate(lane->executor));
    TRY(workers->desc.backend->memory_alloc(lane->device, &memory, gradient_bytes(workers)));
    lane->gradients = memory;
    TRY(workers->desc.backend->memory_alloc(lane->device, &lane->inputs,
                                            inputs_bytes(&workers->desc, lane)));
    TRY(executor_bind(lane->executor, weights, lane->gradients));
  }
  return STATUS_OK;
}

// The statistics of a slice count by its share of the global batch, as its gradients do.
static Status weigh_statistics(const Workers *workers, Lane *lane, int64_t size, int64_t batch) {
  const ParameterLayout *layout = workers->desc.layout;
  float *statistics = lane->gradients + layout->trained;
  return workers->desc.backend->vector_scale(lane->device, statistics, statistics,
                                             (float)((double)size / (double)batch),
                                             layout->reduced - layout->trained);
}

// A worker's part of the batch.
typedef struct Part {
  int64_t size;
  size_t skip; // samples of the rank before it
} Part;

static Part find_part(const Workers *workers, const WorkersBatch *batch, int worker) {
  int count = workers->desc.virtual_workers;
  int64_t begin = workers_slice_begin(worker, count, batch->global_batch);
  int64_t mine = workers_slice_begin(workers->desc.first, count, batch->global_batch);
  return (Part){.size = slice_size(worker, count, batch->global_batch),
                .skip = (size_t)(begin - mine)};
}

static ExecutorInput describe_input(const Workers *workers, const Lane *lane,
                                    const WorkersBatch *batch, int worker) {
  Part part = find_part(workers, batch, worker);
  int turn = worker - workers->desc.first;
  int place = turn % 2 == 0 ? batch->slot : SPARE_INPUT;
  const uint8_t *pixels = batch->pixels;
  if (pixels && !batch->images) pixels += part.skip * batch->sample_size;
  return (ExecutorInput){
      .batch = part.size,
      .pixels = pixels,
      .images = batch->images ? batch->images + part.skip : NULL,
      .values = batch->values ? batch->values + part.skip * batch->sample_size : NULL,
      .maps = batch->maps ? batch->maps + part.skip * UPLOAD_MAP_NUMBERS : NULL,
      .fill = batch->fill,
      .fill_value = batch->fill_value,
      .device_key = &batch->keys[turn],
      .value = lane->inputs ? (char *)lane->inputs + (size_t)place * input_size(lane) : NULL};
}

static Status upload(const Workers *workers, const Lane *lane, const WorkersBatch *batch,
                     int worker, UploadOrder order) {
  ExecutorInput input = describe_input(workers, lane, batch, worker);
  UploadArgs args = executor_describe_upload(lane->executor, &input);
  args.order = order;
  return input.batch > 0 ? workers->desc.backend->upload(lane->device, &args) : STATUS_OK;
}

Status workers_upload(Workers *workers, const WorkersBatch *batch) {
  if (!uploads_beside(&workers->desc)) return STATUS_OK;
  return upload(workers, &workers->lanes[0], batch, workers->desc.first, UPLOAD_WITH_TRANSFER);
}

// This worker's input is there, and the next one's is on its way: its place was read by the worker
// before this one.
static Status pass_inputs_on(const Workers *workers, const Lane *lane, const WorkersBatch *batch,
                             int worker) {
  const WorkersDesc *desc = &workers->desc;
  if (!uploads_beside(desc)) return STATUS_OK;
  if (worker > desc->first && find_part(workers, batch, worker).size > 0)
    TRY(desc->backend->upload_join(lane->device));
  if (worker + 1 == desc->first + desc->count) return STATUS_OK;
  return upload(workers, lane, batch, worker + 1, UPLOAD_BESIDE);
}

static Status run_worker(Workers *workers, Lane *lane, const WorkersBatch *batch, int worker,
                         GradSync *overlap) {
  Part part = find_part(workers, batch, worker);
  TRY(pass_inputs_on(workers, lane, batch, worker));
  if (part.size == 0) { // fewer samples than workers: nothing to add
    TRY(workers->desc.backend->memory_clear(lane->device, lane->gradients,
                                            gradient_bytes(workers)));
    for (int i = 0; overlap && i < workers->desc.layout->parameter_count; i++)
      if (workers->desc.layout->offsets[i] < workers->desc.layout->reduced)
        TRY(gradsync_ready(overlap, i));
    return STATUS_OK;
  }
  ExecutorInput input = describe_input(workers, lane, batch, worker);
  ExecutorLoss loss = {.labels = batch->labels + part.skip,
                       .smoothing = batch->smoothing,
                       .gradient_scale = 1.0f / (float)batch->global_batch,
                       .loss_scale = batch->loss_scale,
                       .losses = batch->losses + part.skip,
                       .ranks = batch->ranks + part.skip};
  double start_s = clock_now_s();
  TRY(executor_forward(lane->executor, &input));
  TRY(weigh_statistics(workers, lane, part.size, batch->global_batch));
  TRY(executor_loss(lane->executor, &loss));
  if (workers->is_timed) TRY(workers->desc.backend->wait(lane->device));
  double middle_s = clock_now_s();
  TRY(executor_backward(lane->executor, overlap ? gradsync_ready : NULL, overlap));
  if (workers->is_timed) TRY(workers->desc.backend->wait(lane->device));
  lane->forward_s += middle_s - start_s;
  lane->backward_s += clock_now_s() - middle_s;
  return STATUS_OK;
}

// One executor, one worker after another; the last one's buckets leave during its backward pass.
static Status run_in_turn(Workers *workers, const WorkersBatch *batch, GradSync *sync) {
  Lane *lane = &workers->lanes[0];
  int end = workers->desc.first + workers->desc.count;
  for (int worker = workers->desc.first; worker < end; worker++) {
    bool is_last = worker == end - 1;
    if (is_last) gradsync_begin_last(sync, lane->gradients);
    TRY(run_worker(workers, lane, batch, worker, is_last ? sync : NULL));
    if (!is_last) TRY(gradsync_add(sync, worker, lane->gradients));
  }
  return STATUS_OK;
}

// Waves of workers, a thread each; their gradients are added in worker order after each wave.
static Status run_side_by_side(Workers *workers, const WorkersBatch *batch, GradSync *sync) {
  int end = workers->desc.first + workers->desc.count;
  for (int wave = workers->desc.first; wave < end; wave += workers->lane_count) {
    int width = end - wave < workers->lane_count ? end - wave : workers->lane_count;
#pragma omp parallel for num_threads(width) schedule(static, 1)
    for (int i = 0; i < width; i++) {
      Lane *lane = &workers->lanes[i];
      status_keep(&lane->status, run_worker(workers, lane, batch, wave + i, NULL));
    }
    for (int i = 0; i < width; i++) {
      Lane *lane = &workers->lanes[i];
      TRY(status_restore(&lane->status));
      TRY(gradsync_add(sync, wave + i, lane->gradients));
    }
  }
  return STATUS_OK;
}

Status workers_run(Workers *workers, const WorkersBatch *batch, GradSync *sync,
                   WorkersTimes *times) {
  workers->is_timed = times != NULL;
  for (int i = 0; i < workers->lane_count; i++) {
    workers->lanes[i].forward_s = workers->lanes[i].backward_s = 0.0;
    executor_weights_changed(workers->lanes[i].executor);
  }
  if (workers->desc.reproducible)
    TRY(run_side_by_side(workers, batch, sync));
  else
    TRY(run_in_turn(workers, batch, sync));
  if (!times) return STATUS_OK;
  *times = (WorkersTimes){0};
  for (int i = 0; i < workers->lane_count; i++) {
    const Lane *lane = &workers->lanes[i];
    if (lane->forward_s > times->forward_s) times->forward_s = lane->forward_s;
    if (lane->backward_s > times->backward_s) times->backward_s = lane->backward_s;
  }
  return STATUS_OK;
}
