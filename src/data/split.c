// The split of Keras' image_dataset_from_directory, down to numpy's legacy generator. See split.h.
#include "data/split.h"

#include <inttypes.h>

#include "base/memory.h"

// --- numpy.random.RandomState: MT19937 of Matsumoto and Nishimura (1998), reference seeding ------

enum { MT_WORDS = 624, MT_SHIFT = 397 };

typedef struct Twister {
  uint32_t word[MT_WORDS];
  int next;
} Twister;

static void twister_seed(Twister *t, uint32_t seed) {
  t->word[0] = seed;
  for (uint32_t i = 1; i < MT_WORDS; i++)
    t->word[i] = 1812433253u * (t->word[i - 1] ^ (t->word[i - 1] >> 30)) + i;
  t->next = MT_WORDS;
}

static void twister_refill(Twister *t) {
  for (int i = 0; i < MT_WORDS; i++) {
    uint32_t y = (t->word[i] & 0x80000000u) | (t->word[(i + 1) % MT_WORDS] & 0x7fffffffu);
    t->word[i] = t->word[(i + MT_SHIFT) % MT_WORDS] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0);
  }
  t->next = 0;
}

static uint32_t twister_draw(Twister *t) {
  if (t->next == MT_WORDS) twister_refill(t);
  uint32_t y = t->word[t->next++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

// Uniform in 0..most: numpy masks to the next power of two and draws again what is too large. Two
// words are taken, the high one first, where one would not do.
static uint64_t twister_interval(Twister *t, uint64_t most) {
  uint64_t mask = most;
  for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
  uint64_t value;
  do {
    value = twister_draw(t);
    if (most > UINT32_MAX) value = value << 32 | twister_draw(t);
    value &= mask;
  } while (value > most);
  return value;
}

void split_shuffle_as_numpy(int64_t *items, int64_t count, uint32_t seed) {
  Twister twister;
  twister_seed(&twister, seed);
  for (int64_t i = count - 1; i > 0; i--) {
    int64_t j = (int64_t)twister_interval(&twister, (uint64_t)i);
    int64_t held = items[i];
    items[i] = items[j];
    items[j] = held;
  }
}

// --- the split -----------------------------------------------------------------------------------

Status split_init(Split *out, const SplitDesc *desc) {
  *out = (Split){0};
  double fraction = desc->validation_fraction;
  if (desc->seed < 0 || desc->seed > UINT32_MAX)
    return status_set(STATUS_CONFIG,
                      "the seed of the split is %" PRId64 ": must be 0..4294967295, as in numpy",
                      desc->seed);
  if (!(fraction >= 0 && fraction < 1))
    return status_set(STATUS_CONFIG,
                      "the validation fraction is %g: must be 0 or more, and below 1", fraction);
  int64_t validation = (int64_t)(fraction * (double)desc->sample_count);
  if (fraction > 0 && validation == 0)
    return status_set(STATUS_CONFIG,
                      "a validation fraction of %g leaves none of %" PRId64
                      " images for validation; raise it, or set it to 0",
                      fraction, desc->sample_count);
  TRY(memory_alloc(&out->training, (size_t)desc->sample_count, sizeof *out->training));
  for (int64_t i = 0; i < desc->sample_count; i++) out->training[i] = i;
  split_shuffle_as_numpy(out->training, desc->sample_count, (uint32_t)desc->seed);
  out->training_count = desc->sample_count - validation;
  out->validation = out->training + out->training_count;
  out->validation_count = validation;
  return STATUS_OK;
}

void split_deinit(Split *split) {
  memory_free(split->training);
  *split = (Split){0};
}
