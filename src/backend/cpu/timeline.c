// Moments in the CPU's work: each call has done its own when it returns, so they are the clock's.
#include "backend/cpu/device.h"

#include "base/clock.h"
#include "base/memory.h"

struct Timeline {
  int capacity, count;
  double moments_s[];
};

Status cpu_timeline_create(Device *device, Timeline **out, int capacity) {
  (void)device;
  *out = NULL;
  Timeline *timeline;
  TRY(memory_alloc(&timeline, 1, sizeof *timeline + (size_t)capacity * sizeof(double)));
  timeline->capacity = capacity;
  *out = timeline;
  return STATUS_OK;
}

void cpu_timeline_free(Timeline *timeline) {
  memory_free(timeline);
}

Status cpu_timeline_mark(Timeline *timeline) {
  if (timeline->count == timeline->capacity)
    return status_set(STATUS_INTERNAL, "a timeline of %d moments is full", timeline->capacity);
  timeline->moments_s[timeline->count++] = clock_now_s();
  return STATUS_OK;
}

Status cpu_timeline_read(Timeline *timeline, double *seconds) {
  for (int i = 0; i + 1 < timeline->count; i++)
    seconds[i] = timeline->moments_s[i + 1] - timeline->moments_s[i];
  timeline->count = 0;
  return STATUS_OK;
}
