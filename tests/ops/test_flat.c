// What a backend does outside of steps, through its table alone: loss, optimizer, moving averages,
// sums over flat slices, upload of pixels. References in double; sizes that are no multiple of a
// vector or of a block of sums. Argument: the backend, "cpu".
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/rng.h"

enum { THREADS_MAX = 3, COUNT = 10007, BATCH = 9 };

static const double UNIT = 0x1p-24; // fp32 rounds by at most this, relatively

static const Backend *backend;
static Device *devices[THREADS_MAX];

static void check(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

static void close_to(double got, double want, double tolerance) {
  if (!(fabs(got - want) <= tolerance))
    fail_msg("%.9g, not %.9g (tolerance %.3g)", got, want, tolerance);
}

// Uniform in [-range, range), a function of (which, i).
static void draw(float *out, int64_t count, uint64_t which, double range) {
  for (int64_t i = 0; i < count; i++) {
    RngWords words = rng_draw(5, RNG_SYNTHETIC, which, (uint64_t)i / 4, 1);
    out[i] = (float)(range * (2.0 * (words.word[i % 4] * 0x1p-32) - 1.0));
  }
}

// Device memory with these contents.
static void *to_device(Device *device, const void *host, size_t size) {
  void *memory;
  check(backend->memory_alloc(device, &memory, size));
  check(backend->copy_to_device(device, memory, host, size));
  return memory;
}

static void from_device(Device *device, void *host, void *memory, size_t size) {
  check(backend->copy_to_host(device, host, memory, size));
  backend->memory_free(device, memory);
}

// --- loss ----------------------------------------------------------------------------------------

// Keras: labels smoothed to (1 - s) [k = label] + s / K, loss -sum t log softmax(z).
static void check_sample(const float *z, int32_t label, const LossArgs *args, const float *dz,
                         float loss, int32_t rank) {
  double sum = 0.0, want = 0.0, top = z[0];
  int32_t above = 0;
  for (int64_t k = 0; k < args->classes; k++) top = fmax(top, z[k]);
  for (int64_t k = 0; k < args->classes; k++) sum += exp(z[k] - top);
  for (int64_t k = 0; k < args->classes; k++) {
    double target =
        (1.0 - args->smoothing) * (k == label) + args->smoothing / (double)args->classes;
    double log_p = z[k] - top - log(sum), p = exp(log_p);
    want -= target * log_p;
    close_to(dz[k], (p - target) * args->gradient_scale, 8.0 * UNIT * args->gradient_scale);
    above += z[k] > z[label] || (z[k] == z[label] && k < label);
  }
  close_to(loss, want, 8.0 * UNIT * (fabs(want) + fabs(top)));
  assert_int_equal(rank, above);
}

static void check_loss(Device *device, int64_t classes, float smoothing, double range) {
  size_t size = (size_t)(BATCH * classes) * sizeof(float);
  float *z = malloc(size), *dz = malloc(size), losses[BATCH];
  int32_t labels[BATCH], ranks[BATCH];
  assert_true(z && dz);
  draw(z, BATCH * classes, (uint64_t)classes, range);
  z[classes - 1] = z[0]; // a tie
  for (int n = 0; n < BATCH; n++) labels[n] = (int32_t)((n * 7 + classes - 1) % classes);
  LossArgs args = {.logits = to_device(device, z, size),
                   .labels = to_device(device, labels, sizeof labels),
                   .labels_on_device = true,
                   .batch = BATCH,
                   .classes = classes,
                   .smoothing = smoothing,
                   .gradient_scale = 1.0f / 32.0f,
                   .dlogits = to_device(device, z, size),
                   .losses = to_device(device, losses, sizeof losses),
                   .ranks = to_device(device, ranks, sizeof ranks)};
  check(backend->softmax_cross_entropy(device, &args));
  from_device(device, dz, args.dlogits, size);
  from_device(device, losses, args.losses, sizeof losses);
  from_device(device, ranks, args.ranks, sizeof ranks);
  backend->memory_free(device, (void *)(uintptr_t)args.logits);
  backend->memory_free(device, (void *)(uintptr_t)args.labels);
  for (int n = 0; n < BATCH; n++)
    check_sample(z + n * classes, labels[n], &args, dz + n * classes, losses[n], ranks[n]);
  free(z);
  free(dz);
}

// A score that is not finite, of the label or of another class, leaves no finite loss; no
// comparison with NaN may make a hit of it, also not among five of two classes. The next samples
// know nothing of it.
static void sample_without_finite_loss_is_no_hit(void **unused) {
  (void)unused;
  enum { CLASSES = 2, SAMPLES = 8 };
  static const float z[SAMPLES * CLASSES] = {NAN, NAN, NAN, 1, 1, NAN,      1,         2,
                                             NAN, 2,   2,   1, 2, INFINITY, -INFINITY, 1};
  static const int32_t labels[SAMPLES] = {0, 0, 0, 1, 1, 1, 1, 0};
  static const bool is_finite[SAMPLES] = {[3] = true, [5] = true};
  static const int32_t finite_ranks[SAMPLES] = {[3] = 0, [5] = 1};
  for (int t = 0; t < THREADS_MAX; t++) {
    float losses[SAMPLES] = {0};
    int32_t ranks[SAMPLES] = {0};
    LossArgs args = {.logits = to_device(devices[t], z, sizeof z),
                     .labels = to_device(devices[t], labels, sizeof labels),
                     .labels_on_device = true,
                     .batch = SAMPLES,
                     .classes = CLASSES,
                     .losses = to_device(devices[t], losses, sizeof losses),
                     .ranks = to_device(devices[t], ranks, sizeof ranks)};
    check(backend->softmax_cross_entropy(devices[t], &args));
    from_device(devices[t], losses, args.losses, sizeof losses);
    from_device(devices[t], ranks, args.ranks, sizeof ranks);
    backend->memory_free(devices[t], (void *)(uintptr_t)args.logits);
    backend->memory_free(devices[t], (void *)(uintptr_t)args.labels);
    for (int n = 0; n < SAMPLES; n++) {
      assert_int_equal(isfinite(losses[n]) != 0, is_finite[n]);
      assert_int_equal(ranks[n], is_finite[n] ? finite_ranks[n] : INT32_MAX);
    }
  }
}

static void loss_matches_keras(void **unused) {
  (void)unused;
  static const int64_t classes[] = {2, 10, 17, 1000};
  for (int t = 0; t < THREADS_MAX; t++)
    for (int c = 0; c < 4; c++) {
      check_loss(devices[t], classes[c], 0.0f, 4.0);
      check_loss(devices[t], classes[c], 0.1f, 4.0);
      check_loss(devices[t], classes[c], 0.1f, 300.0); // exp overflows fp32 without the maximum
    }
}

// --- flat slices ---------------------------------------------------------------------------------

typedef struct Flat {
  float a[COUNT], b[COUNT], c[COUNT];
} Flat;

static Flat *flat_create(void) {
  Flat *flat = malloc(sizeof *flat);
  assert_non_null(flat);
  draw(flat->a, COUNT, 101, 1.0);
  draw(flat->b, COUNT, 102, 1.0);
  draw(flat->c, COUNT, 103, 1.0);
  return flat;
}

// What an update takes gradients by, on the device.
static UpdateState *state_on_device(Device *device, float gradient_scale, bool is_skipped) {
  return to_device(
      device,
      &(UpdateState){.loss_scale = 1.0, .gradient_scale = gradient_scale, .is_skipped = is_skipped},
      sizeof(UpdateState));
}

static const float learning_rate = 0.3f, gradient_scale = 0.5f;

// Slices of the arenas with gaps before, between and behind them: what lies there stays as it was.
static const struct {
  int first, count;
  bool regularized;
} sgd_slices[] = {{4, 40, true}, {44, 4, false}, {64, 2000, true}, {2064, 7936, false}};
enum { SGD_SLICES = sizeof sgd_slices / sizeof sgd_slices[0] };

static void check_sgd(Device *device, const Flat *flat, const SgdArgs *how, float weight_decay,
                      float l2, bool is_skipped) {
  static float w[COUNT], v[COUNT];
  SgdArgs args = *how;
  for (int s = 0; s < SGD_SLICES; s++) {
    bool regularized = sgd_slices[s].regularized;
    args.slices[args.slice_count++] = (SgdSlice){.first = sgd_slices[s].first,
                                                 .count = sgd_slices[s].count,
                                                 .weight_decay = regularized ? weight_decay : 0.0f,
                                                 .l2 = regularized ? l2 : 0.0f};
  }
  void *gradients = to_device(device, flat->c, sizeof flat->c);
  args.weights = to_device(device, flat->a, sizeof flat->a);
  args.velocity = to_device(device, flat->b, sizeof flat->b);
  args.gradients = gradients;
  void *rate = to_device(device, &learning_rate, sizeof learning_rate);
  UpdateState *state = state_on_device(device, gradient_scale, is_skipped);
  args.learning_rate = rate;
  args.state = state;
  check(backend->sgd_update(device, &args));
  backend->memory_free(device, rate);
  backend->memory_free(device, state);
  from_device(device, w, args.weights, sizeof w);
  from_device(device, v, args.velocity, sizeof v);
  backend->memory_free(device, gradients);
  const SgdSlice *slice = args.slices;
  for (int i = 0; i < COUNT; i++) {
    if (i == slice->first + slice->count && slice < args.slices + SGD_SLICES - 1) slice++;
    if (is_skipped || i < slice->first || i >= slice->first + slice->count) {
      assert_true(w[i] == flat->a[i] && v[i] == flat->b[i]);
      continue;
    }
    double old = flat->a[i], lr = learning_rate, m = args.momentum;
    double g = (double)gradient_scale * flat->c[i] + 2.0 * slice->l2 * old;
    double velocity = m * flat->b[i] - lr * g;
    double kept = old - lr * slice->weight_decay * old;
    double want = kept + (args.nesterov ? m * velocity - lr * g : velocity);
    // Every number here is below 4 in size, and no result has more than 8 roundings.
    close_to(v[i], velocity, 8.0 * UNIT * 4.0);
    close_to(w[i], want, 8.0 * UNIT * 4.0);
  }
}

static void sgd_matches_keras(void **unused) {
  (void)unused;
  Flat *flat = flat_create();
  for (int t = 0; t < THREADS_MAX; t++)
    for (int variant = 0; variant < 32; variant++)
      check_sgd(devices[t], flat,
                &(SgdArgs){.momentum = variant & 1 ? 0.9f : 0.0f, .nesterov = variant & 2},
                variant & 8 ? 0.5f : 0.0f, variant & 4 ? 0.25f : 0.0f, variant & 16);
  free(flat);
}

static void moving_average_matches_keras(void **unused) {
  (void)unused;
  static float got[COUNT];
  Flat *flat = flat_create();
  for (int t = 0; t < THREADS_MAX; t++)
    for (int is_skipped = 0; is_skipped < 2; is_skipped++) {
      float *moving = to_device(devices[t], flat->a, sizeof flat->a);
      float *batch = to_device(devices[t], flat->b, sizeof flat->b);
      UpdateState *state = state_on_device(devices[t], 1.0f, is_skipped);
      check(backend->moving_average_update(devices[t], &(MovingAverageArgs){.moving = moving,
                                                                            .batch = batch,
                                                                            .momentum = 0.99f,
                                                                            .count = COUNT,
                                                                            .state = state}));
      from_device(devices[t], got, moving, sizeof got);
      backend->memory_free(devices[t], batch);
      backend->memory_free(devices[t], state);
      for (int i = 0; i < COUNT; i++) {
        double m = 0.99f;
        if (is_skipped)
          assert_true(got[i] == flat->a[i]);
        else
          close_to(got[i], m * flat->a[i] + (1.0 - m) * flat->b[i], 4.0 * UNIT);
      }
    }
  free(flat);
}

static double sum_squares(Device *device, const float *values, int64_t count) {
  double got = -1.0;
  void *out = to_device(device, &got, sizeof got);
  check(backend->vector_sum_squares(device, out, values, count));
  from_device(device, &got, out, sizeof got);
  return got;
}

static void adds_and_scales(void **unused) {
  (void)unused;
  static float got[COUNT];
  Flat *flat = flat_create();
  for (int t = 0; t < THREADS_MAX; t++) {
    float *to = to_device(devices[t], flat->a, sizeof flat->a);
    float *from = to_device(devices[t], flat->b, sizeof flat->b);
    check(backend->vector_add(devices[t], to, from, COUNT));
    check(backend->vector_scale(devices[t], from, to, 0.125f, COUNT));
    from_device(devices[t], got, to, sizeof got);
    for (int i = 0; i < COUNT; i++) assert_true(got[i] == flat->a[i] + flat->b[i]);
    from_device(devices[t], got, from, sizeof got);
    for (int i = 0; i < COUNT; i++) assert_true(got[i] == (flat->a[i] + flat->b[i]) * 0.125f);
  }
  free(flat);
}

// The sum of squares in double is exact to double rounding, and equal bits for all thread counts.
static void sums_squares(void **unused) {
  (void)unused;
  static const int64_t counts[] = {0, 1, 4095, 4096, 4097, COUNT};
  Flat *flat = flat_create();
  for (int c = 0; c < 6; c++) {
    double want = 0.0, first = 0.0;
    for (int64_t i = 0; i < counts[c]; i++) want += (double)flat->a[i] * flat->a[i];
    for (int t = 0; t < THREADS_MAX; t++) {
      float *values = to_device(devices[t], flat->a, sizeof flat->a);
      double got = sum_squares(devices[t], values, counts[c]);
      backend->memory_free(devices[t], values);
      if (t == 0) first = got;
      assert_true(got == first);
      close_to(got, want, (double)COUNT * 0x1p-53 * want);
    }
  }
  free(flat);
}

// The sum is finite exactly where every value is, however large.
static void finds_what_is_not_finite(void **unused) {
  (void)unused;
  static const float bad[] = {INFINITY, -INFINITY, NAN};
  static const int places[] = {0, 5000, COUNT - 1};
  Flat *flat = flat_create();
  for (int i = 0; i < COUNT; i += 3) flat->a[i] = i % 2 ? FLT_MAX : -FLT_MAX;
  for (int t = 0; t < THREADS_MAX; t++)
    for (int variant = 0; variant < 10; variant++) {
      bool is_bad = variant < 9;
      int place = places[variant / 3 % 3];
      float kept = flat->a[place];
      if (is_bad) flat->a[place] = bad[variant % 3];
      float *values = to_device(devices[t], flat->a, sizeof flat->a);
      double sum = sum_squares(devices[t], values, COUNT);
      backend->memory_free(devices[t], values);
      assert_int_equal(isfinite(sum), !is_bad);
      flat->a[place] = kept;
    }
  free(flat);
}

// --- the beginning of an update -------------------------------------------------------------------

static UpdateState begin_update(UpdateState state, const UpdateRules *rules) {
  void *memory = to_device(devices[0], &state, sizeof state);
  check(backend->update_begin(devices[0], memory, rules));
  from_device(devices[0], &state, memory, sizeof state);
  return state;
}

// An overflow leaves the step out, halves the scale (never below 1) and starts the count anew;
// `growth` good steps in a row double it. Steps as letters: '.' is finite, 'X' and 'N' overflow;
// and the scale after each, as Keras' LossScaleOptimizer has it.
static void loss_scale_moves_as_keras(void **unused) {
  (void)unused;
  static const char steps[] = "X..X...N......XXNXX";
  static const double scales[] = {4, 4, 4, 2, 2, 2, 4, 2, 2, 2, 4, 4, 4, 8, 4, 2, 1, 1, 1};
  const UpdateRules rules = {.scales_loss = true, .growth_steps = 3};
  UpdateState state = {.loss_scale = 8.0};
  int64_t overflows = 0;
  for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
    double before = state.loss_scale;
    state.squares = steps[i] == '.' ? 4.0 : steps[i] == 'X' ? INFINITY : NAN;
    state = begin_update(state, &rules);
    overflows += steps[i] != '.';
    assert_true(state.loss_scale == scales[i]);
    assert_int_equal(state.is_skipped, steps[i] != '.');
    assert_int_equal(state.skipped_steps, overflows);
    if (steps[i] == '.') assert_true(state.gradient_scale == (float)(1.0 / before));
  }
}

static void loss_scale_stays_in_range(void **unused) {
  (void)unused;
  UpdateRules rules = {.scales_loss = true, .growth_steps = 1};
  UpdateState state = {.loss_scale = 0x1p126};
  assert_true(begin_update(state, &rules).loss_scale == 0x1p126);
  state.loss_scale = 2.0;
  assert_true(begin_update(state, &rules).loss_scale == 4.0);
  rules.growth_steps = 0;
  for (int i = 0; i < 10; i++) state = begin_update(state, &rules);
  assert_true(state.loss_scale == 2.0);
  rules.scales_loss = false;
  state.squares = INFINITY;
  state = begin_update(state, &rules);
  assert_false(state.is_skipped);
  assert_int_equal(state.skipped_steps, 0);
}

// tf.clip_by_global_norm of gradients that carry a loss scale of 8: norm 12 / 8 against 0.75 and 2.
static void clips_by_norm(void **unused) {
  (void)unused;
  UpdateRules rules = {.clip_norm = 0.75, .scales_loss = true};
  const UpdateState state = {.squares = 144.0, .loss_scale = 8.0};
  assert_true(begin_update(state, &rules).gradient_scale == 0.5f / 8.0f);
  rules.clip_norm = 2.0;
  assert_true(begin_update(state, &rules).gradient_scale == 1.0f / 8.0f);
  rules.scales_loss = false; // then it carries none
  assert_true(begin_update(state, &rules).gradient_scale == (float)(2.0 / 12.0));
  rules.clip_norm = 0.0;
  assert_true(begin_update(state, &rules).gradient_scale == 1.0f);
}

// --- upload --------------------------------------------------------------------------------------

static void check_upload(Device *device, Shape shape, DType dtype) {
  enum { SAMPLES = 3 };
  int64_t count = SAMPLES * shape_count(shape), channels = shape_channels(shape);
  uint8_t *pixels = malloc((size_t)count);
  float *dense = malloc((size_t)count * sizeof *dense);
  assert_true(pixels && dense);
  for (int64_t i = 0; i < count; i++) pixels[i] = (uint8_t)(i * 37 % 256);
  size_t size = backend->value_size(device, shape, SAMPLES, dtype);
  UploadArgs args = {.is_on_device = true, .batch = SAMPLES, .shape = shape, .dtype = dtype};
  for (int64_t c = 0; c < channels; c++) {
    args.scale[c] = 1.0f / (64.0f + (float)c);
    args.offset[c] = (float)c - 1.0f;
  }
  args.pixels = to_device(device, pixels, (size_t)count);
  check(backend->memory_alloc(device, &args.value, size));
  check(backend->upload(device, &args));
  check(backend->value_export(device, dense, args.value, shape, SAMPLES, dtype));
  for (int64_t i = 0; i < count; i++) {
    int64_t c = i % channels;
    double scaled = (double)pixels[i] * args.scale[c], want = scaled + args.offset[c];
    close_to(dense[i], want,
             2.0 * UNIT * (scaled + fabs(want)) +
                 (dtype == DTYPE_BF16 ? 0x1p-8 * fabs(want) : 0.0));
  }
  backend->memory_free(device, args.value);
  backend->memory_free(device, (void *)(uintptr_t)args.pixels);
  free(pixels);
  free(dense);
}

static void uploads_pixels(void **unused) {
  (void)unused;
  for (int t = 0; t < THREADS_MAX; t++)
    for (int64_t channels = 1; channels <= 4; channels++) {
      check_upload(devices[t], SHAPE(5, 7, channels), DTYPE_F32);
      if (backend->device_multiplies(devices[t], DTYPE_BF16))
        check_upload(devices[t], SHAPE(5, 7, channels), DTYPE_BF16);
    }
}

static int open_devices(void **unused) {
  (void)unused;
  for (int i = 0; i < THREADS_MAX; i++)
    if (backend->device_open(&devices[i], &(DeviceDesc){.threads = i + 1}) != STATUS_OK) {
      print_error("%s\n", status_message());
      return -1;
    }
  return 0;
}

static int close_devices(void **unused) {
  (void)unused;
  for (int i = 0; i < THREADS_MAX; i++) backend->device_close(devices[i]);
  return 0;
}

int main(int argc, char **argv) {
  backend = backend_find(argc > 1 ? argv[1] : "cpu");
  if (!backend) {
    printf("this program was built without the backend %s\n", argc > 1 ? argv[1] : "cpu");
    return 77;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(loss_matches_keras),
      cmocka_unit_test(sample_without_finite_loss_is_no_hit),
      cmocka_unit_test(sgd_matches_keras),
      cmocka_unit_test(moving_average_matches_keras),
      cmocka_unit_test(adds_and_scales),
      cmocka_unit_test(sums_squares),
      cmocka_unit_test(finds_what_is_not_finite),
      cmocka_unit_test(loss_scale_moves_as_keras),
      cmocka_unit_test(loss_scale_stays_in_range),
      cmocka_unit_test(clips_by_norm),
      cmocka_unit_test(uploads_pixels),
  };
  return cmocka_run_group_tests(tests, open_devices, close_devices);
}
