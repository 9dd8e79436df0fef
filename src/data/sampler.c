// Which samples form a global batch. See sampler.h.
//
// The permutation of a pass is a Feistel network over the bits of a position, walked along its
// cycle until it lands inside the list (Black and Rogaway, "Ciphers with arbitrary finite domains",
// CT-RSA 2002): each position costs a few draws, and no rank holds a table.
#include "data/sampler.h"

#include <inttypes.h>
#include <stdbool.h>

#include "base/rng.h"

enum { FEISTEL_ROUNDS = 8 };

static const int64_t MAX_SAMPLES = INT64_C(1) << 40;

Status sampler_init(Sampler *out, const SamplerDesc *desc) {
  *out = (Sampler){.desc = *desc};
  int64_t n = desc->sample_count;
  if (n < 1 || n > MAX_SAMPLES)
    return status_set(STATUS_CONFIG, "%" PRId64 " images to draw from: must be 1..%" PRId64, n,
                      MAX_SAMPLES);
  if (desc->batch < 1)
    return status_set(STATUS_CONFIG, "a batch of %" PRId64 " images: must be at least 1",
                      desc->batch);
  out->full_batch = desc->batch < n ? desc->batch : n;
  int64_t whole = n / out->full_batch;
  int64_t started = (n - 1) / out->full_batch + 1;
  bool gives_all = desc->mode == SAMPLER_EVALUATE || desc->mode == SAMPLER_TRAIN_KERAS;
  out->steps_per_pass = gives_all ? started : whole;
  out->steps_per_epoch = desc->mode == SAMPLER_EVALUATE ? started : whole;
  out->window.pass = -1;
  return STATUS_OK;
}

int64_t sampler_steps_per_epoch(const Sampler *sampler) {
  return sampler->steps_per_epoch;
}

int64_t sampler_pass(const Sampler *sampler, int64_t step) {
  return step / sampler->steps_per_pass;
}

int64_t sampler_batch_size(const Sampler *sampler, int64_t step) {
  int64_t begin = step % sampler->steps_per_pass * sampler->full_batch;
  int64_t left = sampler->desc.sample_count - begin;
  return left < sampler->full_batch ? left : sampler->full_batch;
}

// --- a permutation of the whole list -------------------------------------------------------------

typedef struct Permutation {
  uint64_t seed, pass, count;
  int low_bits, high_bits; // of a position, differing by one at most
} Permutation;

static Permutation permutation_of_pass(const Sampler *sampler, int64_t pass) {
  Permutation p = {.seed = sampler->desc.seed,
                   .pass = (uint64_t)pass,
                   .count = (uint64_t)sampler->desc.sample_count};
  int bits = 2;
  while ((UINT64_C(1) << bits) < p.count) bits++;
  p.low_bits = bits / 2;
  p.high_bits = bits - p.low_bits;
  return p;
}

// One bijection of 0..2^bits-1: the halves mask each other in turn, so they may differ in width.
static uint64_t permutation_mix(const Permutation *p, uint64_t value) {
  uint64_t low_mask = (UINT64_C(1) << p->low_bits) - 1;
  uint64_t high_mask = (UINT64_C(1) << p->high_bits) - 1;
  uint64_t low = value & low_mask, high = value >> p->low_bits;
  for (uint32_t round = 0; round < FEISTEL_ROUNDS; round += 2) {
    high ^= rng_draw(p->seed, RNG_SHUFFLE, p->pass, low, round).word[0] & high_mask;
    low ^= rng_draw(p->seed, RNG_SHUFFLE, p->pass, high, round + 1).word[0] & low_mask;
  }
  return high << p->low_bits | low;
}

static int64_t permutation_at(const Permutation *p, int64_t position) {
  uint64_t value = (uint64_t)position;
  do value = permutation_mix(p, value);
  while (value >= p->count);
  return (int64_t)value;
}

// --- a shuffle inside a window, as tf.data's shuffle(8) ------------------------------------------

static void window_rewind(Sampler *s, int64_t pass) {
  s->window.pass = pass;
  s->window.next = 0;
  for (int64_t i = 0; i < SAMPLER_WINDOW; i++) s->window.held[i] = i;
}

// Gives a random one of the held positions; the next of the list takes its place, or at the end of
// the list the last held one.
static int64_t window_give(Sampler *s) {
  int64_t n = s->desc.sample_count, next = s->window.next++;
  int64_t held = n - next < SAMPLER_WINDOW ? n - next : SAMPLER_WINDOW;
  uint32_t word =
      rng_draw(s->desc.seed, RNG_SHUFFLE, (uint64_t)s->window.pass, (uint64_t)next, 0).word[0];
  int64_t slot = (int64_t)((uint64_t)word * (uint64_t)held >> 32);
  int64_t given = s->window.held[slot];
  int64_t incoming = next + SAMPLER_WINDOW;
  s->window.held[slot] = incoming < n ? incoming : s->window.held[held - 1];
  return given;
}

static void window_seek(Sampler *s, int64_t pass, int64_t position) {
  if (s->window.pass != pass || s->window.next > position) window_rewind(s, pass);
  while (s->window.next < position) (void)window_give(s);
}

// --- batches -------------------------------------------------------------------------------------

void sampler_indices(Sampler *sampler, int64_t step, int64_t first, int64_t count, int64_t *out) {
  int64_t pass = sampler_pass(sampler, step);
  int64_t begin = step % sampler->steps_per_pass * sampler->full_batch + first;
  switch (sampler->desc.mode) {
  case SAMPLER_TRAIN: {
    Permutation permutation = permutation_of_pass(sampler, pass);
    for (int64_t i = 0; i < count; i++) out[i] = permutation_at(&permutation, begin + i);
    break;
  }
  case SAMPLER_EVALUATE:
    for (int64_t i = 0; i < count; i++) out[i] = begin + i;
    break;
  case SAMPLER_TRAIN_KERAS:
  case SAMPLER_EVALUATE_KERAS:
    window_seek(sampler, pass, begin);
    for (int64_t i = 0; i < count; i++) out[i] = window_give(sampler);
    break;
  }
}
