// Batches on their way to the device. See feed.h.
#include "train/feed.h"

#include <string.h>

#include "base/memory.h"

// Where the parts of a batch begin: in a slot keys and rate, then labels; maps and samples apart,
// as what an upload takes in.
typedef struct Places {
  size_t rate, numbers_size, labels, size;
  size_t samples, intake_size;
} Places;

struct Feed {
  FeedDesc desc;
  Places places;
  void *numbers;               // keys and rate on the host
  char *slots[2], *intakes[2]; // on the device; intakes[1] NULL: one place for both
  int next;                    // slot
};

static Places find_places(const FeedDesc *desc) {
  size_t samples = (size_t)desc->samples, keys = (size_t)desc->workers * sizeof(StepKey);
  size_t maps = desc->has_maps ? samples * UPLOAD_MAP_NUMBERS * sizeof(double) : 0;
  Places places = {.rate = keys, .numbers_size = keys + sizeof(float)};
  places.labels = memory_round_up(places.numbers_size);
  places.size = places.labels + samples * sizeof(int32_t);
  places.samples = memory_round_up(maps);
  places.intake_size = places.samples + samples * desc->sample_size;
  return places;
}

static int intake_count(const FeedDesc *desc) {
  return desc->workers > 1 ? 2 : 1;
}

static bool moves(const FeedDesc *desc) {
  return desc->backend->transfer != NULL;
}

size_t feed_memory_bytes(const FeedDesc *desc) {
  Places places = find_places(desc);
  if (!moves(desc)) return 0;
  return 2 * memory_block_bytes(places.size) +
         (size_t)intake_count(desc) * memory_block_bytes(places.intake_size);
}

Status feed_create(Feed **out, const FeedDesc *desc) {
  *out = NULL;
  Feed *feed;
  TRY(memory_alloc(&feed, 1, sizeof *feed));
  Status status = STATUS_OK;
  feed->desc = *desc;
  feed->places = find_places(desc);
  const Backend *backend = desc->backend;
  GUARD(backend_host_alloc(backend, desc->device, &feed->numbers, feed->places.numbers_size));
  for (int s = 0; moves(desc) && s < 2; s++) {
    void *memory;
    GUARD(backend->memory_alloc(desc->device, &memory, feed->places.size));
    feed->slots[s] = memory;
    if (s == intake_count(desc)) continue;
    GUARD(backend->memory_alloc(desc->device, &memory, feed->places.intake_size));
    feed->intakes[s] = memory;
  }
  *out = feed;
  feed = NULL;
out:
  feed_free(feed);
  return status;
}

void feed_free(Feed *feed) {
  if (!feed) return;
  const Backend *backend = feed->desc.backend;
  for (int s = 0; s < 2; s++) {
    backend->memory_free(feed->desc.device, feed->slots[s]);
    backend->memory_free(feed->desc.device, feed->intakes[s]);
  }
  backend_host_free(backend, feed->desc.device, feed->numbers);
  memory_free(feed);
}

// Keys and rate in one piece that nobody else writes.
static const char *gather_numbers(Feed *feed, const FeedBatch *host) {
  char *numbers = feed->numbers;
  memcpy(numbers, host->keys, (size_t)feed->desc.workers * sizeof *host->keys);
  memcpy(numbers + feed->places.rate, host->learning_rate, sizeof *host->learning_rate);
  return numbers;
}

Status feed_send(Feed *feed, FeedBatch *out, const FeedBatch *host) {
  const Places *places = &feed->places;
  const char *numbers = gather_numbers(feed, host);
  *out = *host;
  out->slot = feed->next;
  feed->next = 1 - feed->next;
  if (moves(&feed->desc)) {
    char *slot = feed->slots[out->slot];
    char *intake = feed->intakes[intake_count(&feed->desc) > 1 ? out->slot : 0];
    size_t count = (size_t)host->count;
    out->maps = host->maps ? (const double *)(void *)intake : NULL;
    out->labels = (const int32_t *)(void *)(slot + places->labels);
    out->samples = intake + places->samples;
    const TransferPiece pieces[] = {
        {slot, numbers, places->numbers_size},
        {slot + places->labels, host->labels, count * sizeof *host->labels},
        {intake, host->maps, host->maps ? count * UPLOAD_MAP_NUMBERS * sizeof *host->maps : 0},
        {intake + places->samples, host->samples, count * host->sample_size}};
    TRY(feed->desc.backend->transfer(feed->desc.device, out->slot, pieces,
                                     sizeof pieces / sizeof *pieces));
    numbers = slot;
  }
  out->keys = (const StepKey *)(const void *)numbers;
  out->learning_rate = (const float *)(const void *)(numbers + places->rate);
  return STATUS_OK;
}
