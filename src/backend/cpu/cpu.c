// The table of the CPU backend. Rows are filled by the files of this folder.
#include "backend/cpu/cpu.h"

#include <string.h>

#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

static Status device_memory_alloc(Device *device, void **out, size_t size_bytes) {
  (void)device;
  return memory_alloc_aligned(out, size_bytes);
}

static void device_memory_free(Device *device, void *memory) {
  (void)device;
  memory_free(memory);
}

static Status copy(Device *device, void *to, const void *from, size_t size_bytes) {
  (void)device;
  memcpy(to, from, size_bytes);
  return STATUS_OK;
}

static Status wait(Device *device) {
  (void)device; // each call has done its work when it returns
  return STATUS_OK;
}

static Status clear(Device *device, void *memory, size_t size_bytes) {
  (void)device;
  memset(memory, 0, size_bytes);
  return STATUS_OK;
}

static Status count_one(DeviceCount *out) {
  *out = (DeviceCount){.count = 1};
  return STATUS_OK;
}

static Status identify(DeviceIdentity *out, int index) {
  (void)index;
  *out = (DeviceIdentity){0};
  return STATUS_OK;
}

static Status describe_nothing(char *text, size_t capacity) {
  if (capacity > 0) text[0] = '\0';
  return STATUS_OK;
}

const Backend cpu_backend = {
    .name = "cpu",
    .device_count = count_one,
    .device_identify = identify,
    .device_open = cpu_device_open,
    .device_close = cpu_device_close,
    .device_describe = cpu_device_describe,
    .describe_host = describe_nothing,
    .device_multiplies = cpu_device_multiplies,
    .depends_on_threads = true,
    .memory_alloc = device_memory_alloc,
    .memory_free = device_memory_free,
    .memory_clear = clear,
    .copy_to_device = copy,
    .copy_to_host = copy,
    .read_begin = copy,
    .wait = wait,
    .timeline_create = cpu_timeline_create,
    .timeline_free = cpu_timeline_free,
    .timeline_mark = cpu_timeline_mark,
    .timeline_read = cpu_timeline_read,
    .value_size = cpu_value_size,
    .value_import = cpu_value_import,
    .value_export = cpu_value_export,
    .value_add = cpu_value_add,
    .can_slice = cpu_can_slice,
    .steps =
        {
            [STEP_CONV2D] = &cpu_conv2d,
            [STEP_DEPTHWISE_CONV2D] = &cpu_depthwise_conv2d,
            [STEP_DENSE] = &cpu_dense,
            [STEP_NORM] = &cpu_norm,
            [STEP_GROUP_NORM] = &cpu_group_norm,
            [STEP_ACTIVATION] = &cpu_activation,
            [STEP_ADD] = &cpu_add,
            [STEP_MULTIPLY] = &cpu_multiply,
            [STEP_SQUEEZE_EXCITE] = &cpu_squeeze_excite,
            [STEP_DROPOUT] = &cpu_dropout,
            [STEP_POOL2D] = &cpu_pool2d,
            [STEP_GLOBAL_POOL] = &cpu_global_pool,
            [STEP_RESCALE] = &cpu_rescale,
            [STEP_PAD] = &cpu_pad,
            [STEP_CROP] = &cpu_crop,
            [STEP_CONCAT] = &cpu_concat,
            [STEP_FLATTEN] = &cpu_flatten,
        },
    .upload = cpu_upload,
    .softmax_cross_entropy = cpu_softmax_cross_entropy,
    .vector_add = cpu_vector_add,
    .vector_scale = cpu_vector_scale,
    .vector_sum_squares = cpu_vector_sum_squares,
    .update_begin = cpu_update_begin,
    .sgd_update = cpu_sgd_update,
    .moving_average_update = cpu_moving_average_update,
};
