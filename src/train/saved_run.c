// Finds and opens the checkpoint that a run goes on from. See saved_run.h.
#include "train/saved_run.h"

#include <jansson.h>
#include <string.h>

#include "base/memory.h"
#include "base/process.h"
#include "train/checkpoint.h"

#define MODEL_MAX_BYTES ((size_t)1 << 36)

// Rank 0: the bytes that `resume` names; none leaves them empty.
static Status find(SavedRun *saved, const Config *config, Log *log) {
  const char *resume = config->checkpoint.resume;
  Bytes *bytes = &saved->bytes;
  if (strcmp(resume, "none") == 0) return STATUS_OK;
  if (strcmp(resume, "auto") == 0) {
    TRY(checkpoint_find_newest(&bytes->data, &bytes->size, &saved->path, config->run.output, log));
    bytes->capacity = bytes->size;
    return STATUS_OK;
  }
  TRY(file_read(bytes, resume, MODEL_MAX_BYTES));
  return memory_copy_string(&saved->path, resume);
}

static Status open_file(SavedRun *saved, int rank) {
  if (rank != 0) TRY(memory_copy_string(&saved->path, "the checkpoint of rank 0"));
  TRY(keras_open_bytes(&saved->file, saved->bytes.data, saved->bytes.size, saved->path));
  const char *state = keras_file_info(saved->file)->state;
  json_t *root = state ? json_loads(state, 0, NULL) : NULL;
  saved->virtual_workers = (int)json_integer_value(json_object_get(root, "virtual_workers"));
  json_decref(root);
  return STATUS_OK;
}

Status saved_run_find(SavedRun *out, const Config *config, World *world, Log *log) {
  *out = (SavedRun){0};
  size_t held_before = process_memory_held();
  TRY(world_agree_status(world, world->rank == 0 ? find(out, config, log) : STATUS_OK));
  uint64_t size = out->bytes.size;
  TRY(world_broadcast(world, &size, sizeof size, 0));
  if (size == 0) return STATUS_OK;
  Status status = STATUS_OK;
  if (world->rank != 0) {
    status = memory_alloc(&out->bytes.data, size, 1);
    out->bytes.capacity = out->bytes.size = size;
  }
  TRY(world_agree_status(world, status));
  TRY(world_broadcast(world, out->bytes.data, size, 0));
  TRY(world_agree_status(world, open_file(out, world->rank)));
  size_t held = process_memory_held();
  out->held_bytes = held > held_before ? held - held_before : 0;
  return STATUS_OK;
}

void saved_run_close(SavedRun *saved) {
  keras_close(saved->file);
  bytes_deinit(&saved->bytes);
  memory_free(saved->path);
  *saved = (SavedRun){0};
}
