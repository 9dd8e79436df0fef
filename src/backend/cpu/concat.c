// Inputs side by side along the channels; backward takes them apart. Inputs that lie in the output
// already cost nothing. For the others the work is a list of pieces, made by plan: runs of channels
// that lie in one block of the input and one block of the output. Whole planes are moved at once,
// the others pixel by pixel.
#include <string.h>

#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

// Channels `lane`... of plane `plane` of an image.
typedef struct Lanes {
  int64_t plane, lane, block, planes; // planes: of one image
} Lanes;

typedef struct Piece {
  int input;
  int64_t count; // channels
  Lanes in, dx, out; // of the input, of its gradient, of the output
} Piece;

typedef struct Concat {
  Device *device;
  int64_t batch, pixels;
  size_t element;
  int input_count;
  Shape inputs[STEP_MAX_INPUTS], output;
  Slice slices[STEP_MAX_INPUTS];
  bool in_place[STEP_MAX_INPUTS];
  int64_t piece_count;
  Piece *pieces; // owned
} Concat;

static void concat_unplan(void *state) {
  Concat *c = state;
  if (!c) return;
  memory_free(c->pieces);
  memory_free(c);
}

static Lanes lanes_at(const Device *device, Shape shape, int64_t channel) {
  int64_t block = cpu_value_block(device, shape);
  return (Lanes){channel / block, channel % block, block, cpu_value_planes(device, shape)};
}

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static Status pieces_create(Concat *c) {
  TRY(memory_alloc(&c->pieces, (size_t)shape_channels(c->output), sizeof *c->pieces));
  int64_t first = 0;
  for (int i = 0; i < c->input_count; i++) {
    int64_t channels = shape_channels(c->inputs[i]), count;
    for (int64_t channel = 0; channel < channels; channel += count) {
      Lanes dx = lanes_at(c->device, c->inputs[i], channel), in = dx;
      if (c->slices[i].channels > 0) {
        in.planes = cpu_block_count(c->device, c->slices[i].channels);
        in.plane += c->slices[i].first / c->device->block;
      }
      Lanes out = lanes_at(c->device, c->output, first + channel);
      count = least(channels - channel, least(in.block - in.lane, out.block - out.lane));
      if (!c->in_place[i]) c->pieces[c->piece_count++] = (Piece){i, count, in, dx, out};
    }
    first += channels;
  }
  return STATUS_OK;
}

static Status concat_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  Status status;
  *state = NULL;
  Concat *c;
  TRY(memory_alloc(&c, 1, sizeof *c));
  c->device = device;
  c->batch = desc->batch;
  bool is_vector = desc->output.rank == 1; // one pixel, in fp32
  c->pixels = is_vector ? 1 : desc->output.dim[0] * desc->output.dim[1];
  c->element = dtype_size(is_vector ? DTYPE_F32 : desc->dtype);
  c->input_count = desc->input_count;
  memcpy(c->inputs, desc->inputs, sizeof c->inputs);
  memcpy(c->slices, desc->x_slice, sizeof c->slices);
  memcpy(c->in_place, desc->in_place, sizeof c->in_place);
  c->output = desc->output;
  GUARD(pieces_create(c));
  *needs = (StepNeeds){0};
  *state = c;
  return STATUS_OK;
out:
  concat_unplan(c);
  return status;
}

static size_t offset_of(const Concat *c, const Lanes *lanes, int64_t image) {
  int64_t plane = image * lanes->planes + lanes->plane;
  return (size_t)(plane * c->pixels * lanes->block + lanes->lane) * c->element;
}

static void lanes_move(const Concat *c, int64_t count, char *to, int64_t to_block, const char *from,
                       int64_t from_block) {
  if (count == to_block && count == from_block) {
    memcpy(to, from, (size_t)(c->pixels * count) * c->element);
    return;
  }
  size_t size = (size_t)count * c->element;
  size_t to_step = (size_t)to_block * c->element, from_step = (size_t)from_block * c->element;
  for (int64_t pixel = 0; pixel < c->pixels; pixel++)
    memcpy(to + (size_t)pixel * to_step, from + (size_t)pixel * from_step, size);
}

// Clears the lanes past C of one image of a value; there are none where C fills its blocks.
static void tail_clear(const Concat *c, char *value, Shape shape, int64_t image) {
  int64_t channels = shape_channels(shape);
  Lanes tail = lanes_at(c->device, shape, channels);
  if (tail.lane == 0) return;
  char *to = value + offset_of(c, &tail, image);
  size_t size = (size_t)(tail.block - tail.lane) * c->element;
  for (int64_t pixel = 0; pixel < c->pixels; pixel++)
    memset(to + (size_t)(pixel * tail.block) * c->element, 0, size);
}

static Status concat_forward(void *state, const StepArgs *args) {
  const Concat *c = state;
  if (c->piece_count == 0) return STATUS_OK;
  cpu_device_enter(c->device);
#pragma omp parallel for num_threads(c->device->threads) schedule(static)
  for (int64_t image = 0; image < c->batch; image++) {
    for (int64_t i = 0; i < c->piece_count; i++) {
      const Piece *p = &c->pieces[i];
      lanes_move(c, p->count, (char *)args->y + offset_of(c, &p->out, image), p->out.block,
                 (const char *)args->x[p->input] + offset_of(c, &p->in, image), p->in.block);
    }
    tail_clear(c, args->y, c->output, image);
  }
  return STATUS_OK;
}

static Status concat_backward(void *state, const StepArgs *args) {
  const Concat *c = state;
  cpu_device_enter(c->device);
#pragma omp parallel for num_threads(c->device->threads) schedule(static)
  for (int64_t image = 0; image < c->batch; image++) {
    for (int64_t i = 0; i < c->piece_count; i++) {
      const Piece *p = &c->pieces[i];
      if (!args->dx[p->input]) continue;
      lanes_move(c, p->count, (char *)args->dx[p->input] + offset_of(c, &p->dx, image), p->dx.block,
                 (const char *)args->dy + offset_of(c, &p->out, image), p->out.block);
    }
    for (int i = 0; i < c->input_count; i++)
      if (args->dx[i]) tail_clear(c, args->dx[i], c->inputs[i], image);
  }
  return STATUS_OK;
}

const StepImpl cpu_concat = {.plan = concat_plan,
                             .unplan = concat_unplan,
                             .forward = concat_forward,
                             .backward = concat_backward,
                             .rebuild = concat_forward,
                             .reads_slices = true};
