// Batches on their way to the device. See feed.h.
#include "train/feed.h"

#include <string.h>

#include "base/memory.h"

// Where the parts of a batch begin in a slot: keys and rate, maps, labels, samples.
typedef struct Places {
  size_t rate, numbers_size, maps, labels, samples, size;
} Places;

struct Feed {
  FeedDesc desc;
  Places places;
  void *numbers;  // keys and rate on the host
  char *slots[2]; // on the device
  int next;       // slot
};

static Places find_places(const FeedDesc *desc) {
  size_t samples = (size_t)desc->samples, keys = (size_t)desc->workers * sizeof(StepKey);
  size_t maps = desc->has_maps ? samples * UPLOAD_MAP_NUMBERS * sizeof(double) : 0;
  Places places = {.rate = keys, .numbers_size = keys + sizeof(float)};
  places.maps = memory_round_up(places.numbers_size);
  places.labels = places.maps + memory_round_up(maps);
  places.samples = places.labels + memory_round_up(samples * sizeof(int32_t));
  places.size = places.samples + samples * desc->sample_size;
  return places;
}

static bool moves(const FeedDesc *desc) {
  return desc->backend->transfer != NULL;
}

size_t feed_memory_bytes(const FeedDesc *desc) {
  return moves(desc) ? 2 * memory_block_bytes(find_places(desc).size) : 0;
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
  for (int s = 0; s < 2; s++) backend->memory_free(feed->desc.device, feed->slots[s]);
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
    size_t count = (size_t)host->count;
    out->maps = host->maps ? (const double *)(void *)(slot + places->maps) : NULL;
    out->labels = (const int32_t *)(void *)(slot + places->labels);
    out->samples = slot + places->samples;
    const TransferPiece pieces[] = {
        {slot, numbers, places->numbers_size},
        {slot + places->maps, host->maps,
         host->maps ? count * UPLOAD_MAP_NUMBERS * sizeof *host->maps : 0},
        {slot + places->labels, host->labels, count * sizeof *host->labels},
        {slot + places->samples, host->samples, count * host->sample_size}};
    TRY(feed->desc.backend->transfer(feed->desc.device, out->slot, pieces,
                                     sizeof pieces / sizeof *pieces));
    numbers = slot;
  }
  out->keys = (const StepKey *)(const void *)numbers;
  out->learning_rate = (const float *)(const void *)(numbers + places->rate);
  return STATUS_OK;
}
