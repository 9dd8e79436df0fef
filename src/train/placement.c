// Which device each rank computes on. See placement.h.
#include "train/placement.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static const char *const device_names[] = {
    [CONFIG_DEVICE_AUTO] = "auto",
    [CONFIG_DEVICE_CPU] = "cpu",
    [CONFIG_DEVICE_CUDA] = "cuda",
};

Status placement_parse_device(ConfigDevice *out, const char *text) {
  for (int i = CONFIG_DEVICE_AUTO; i <= CONFIG_DEVICE_CUDA; i++) {
    *out = (ConfigDevice)i;
    if (strcmp(text, device_names[i]) == 0) return STATUS_OK;
  }
  return status_set(STATUS_USAGE, "--device '%s': use auto, cpu or cuda", text);
}

// What ranks tell each other, to see who shares a device.
typedef struct Seat {
  int node_rank;
  char id[sizeof((DeviceIdentity){0}.id)];
} Seat;

// Counts the ranks on this rank's device. Two on one GPU run after one another, hold everything twice
// and sum slowly (dist/nccl_sharing.c): rarely what was meant.
static Status find_sharers(Placement *mine, const PlacementDesc *desc) {
  World *world = desc->world;
  mine->sharers = 1;
  if (!world || mine->identity.id[0] == '\0') return STATUS_OK;
  Seat *seats, seat = {.node_rank = world->node_rank};
  memcpy(seat.id, mine->identity.id, sizeof seat.id);
  TRY(world_agree_status(world, memory_alloc(&seats, (size_t)world->size, sizeof *seats)));
  Status status = world_allgather_bytes(world, seats, &seat, sizeof seat);
  for (int r = 0; status == STATUS_OK && r < world->size; r++) {
    if (r == world->rank || memcmp(&seats[r], &seat, sizeof seat) != 0) continue;
    mine->sharers++;
    if (r < world->rank && !desc->share_gpu)
      status = status_set(STATUS_CONFIG,
                          "GPU %d is rank %d's too: start at most one rank a GPU, or, to try things "
                          "out, set [run] share_gpu = yes",
                          mine->index, r);
  }
  memory_free(seats);
  return world_agree_status(world, status);
}

static Status agree(World *world, Status mine) {
  return world ? world_agree_status(world, mine) : mine;
}

// Takes a backend where every rank has a device of its kind; else `*found` is false and the reason
// is this thread's message.
static Status try_backend(Placement *out, bool *found, const Backend *backend,
                          const PlacementDesc *desc) {
  DeviceCount devices;
  *found = false;
  TRY(agree(desc->world, backend->device_count(&devices)));
  Status has = devices.count > 0 ? STATUS_OK : status_set(STATUS_OS, "%s", devices.why_none);
  if (agree(desc->world, has) != STATUS_OK) return STATUS_OK;
  *found = true;
  out->backend = backend;
  // A launcher may show each rank its own GPU alone; then all of them call it 0.
  out->index = desc->world ? desc->world->local_rank % devices.count : 0;
  TRY(agree(desc->world, backend->device_identify(&out->identity, out->index)));
  return find_sharers(out, desc);
}

static Status find_first(Placement *out, const PlacementDesc *desc) {
  for (const Backend *const *backend = backend_list(); *backend; backend++) {
    bool found;
    TRY(try_backend(out, &found, *backend, desc));
    if (found) return STATUS_OK;
    size_t used = strlen(out->why_not);
    (void)snprintf(out->why_not + used, sizeof out->why_not - used, "%s%s", used ? "; " : "",
                   status_message());
  }
  return status_set(STATUS_OS, "no device to compute on: %s", out->why_not);
}

Status placement_find(Placement *out, const PlacementDesc *desc) {
  *out = (Placement){0};
  if (desc->device == CONFIG_DEVICE_AUTO) return find_first(out, desc);
  const char *name = device_names[desc->device];
  const Backend *backend = backend_find(name);
  if (!backend)
    return status_set(STATUS_CONFIG,
                      "device = %s: this program was built without it; build with `cmake --preset "
                      "cuda`, or use cpu or auto",
                      name);
  bool found;
  TRY(try_backend(out, &found, backend, desc));
  if (found) return STATUS_OK;
  return status_prepend(STATUS_CONFIG, "device = %s, where cpu or auto would do", name);
}
