// Finds and opens the checkpoint that a run goes on from. See saved_run.h.
#include "train/saved_run.h"

#include <string.h>

#include "base/memory.h"
#include "base/process.h"
#include "train/checkpoint.h"

// Rank 0: the bytes that `resume` names; none leaves them empty.
static Status find(SavedRun *saved, const Config *config, Log *log) {
  const char *resume = config->checkpoint.resume;
  Bytes *bytes = &saved->bytes;
  Status status;
  if (strcmp(resume, "none") == 0) return STATUS_OK;
  if (strcmp(resume, "auto") == 0) {
    status =
        checkpoint_find_newest(&bytes->data, &bytes->size, &saved->path, config->run.output, log);
  } else {
    TRY(memory_copy_string(&saved->path, resume));
    status = h5_read_clean(&bytes->data, &bytes->size, resume);
    if (status == STATUS_NO_INPUT) status = status_prepend(status, "[checkpoint] resume");
  }
  bytes->capacity = bytes->size;
  return status;
}

static Status read_state(SavedRun *saved) {
  const char *state = keras_file_info(saved->file)->state;
  if (!state)
    return status_set(STATUS_DATA,
                      "%s holds no state of a run, only a model; use it as [model] weights",
                      saved->path);
  saved->root = json_loads(state, 0, NULL);
  return saved_state_read(&saved->state, saved->root, saved->path);
}

static Status open_file(SavedRun *saved, int rank) {
  if (rank != 0) TRY(memory_copy_string(&saved->path, "the checkpoint of rank 0"));
  TRY(keras_open_bytes(&saved->file, saved->bytes.data, saved->bytes.size, saved->path));
  return read_state(saved);
}

Status saved_run_find(SavedRun *out, const Config *config, World *world, Log *log) {
  *out = (SavedRun){0};
  size_t held_before = process_memory_held();
  Status status = world->rank == 0 ? find(out, config, log) : STATUS_OK;
  if (status == STATUS_DATA && out->path)
    status = status_prepend(status, "no run to go on with; name another file, or --resume auto");
  TRY(world_agree_status(world, status));
  uint64_t size = out->bytes.size;
  TRY(world_broadcast(world, &size, sizeof size, 0));
  if (size == 0) return STATUS_OK;
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
  json_decref(saved->root);
  bytes_deinit(&saved->bytes);
  memory_free(saved->path);
  *saved = (SavedRun){0};
}
