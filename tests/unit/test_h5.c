// io/h5, io/sandbox and io/checksum: what is written reads back with plain HDF5 and with us, lists
// are split as Keras splits them, and no file, damaged or evil, does more than give an error.
#include <hdf5.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "io/checksum.h"
#include "io/h5.h"
#include "io/sandbox.h"

static void expect_ok(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

// --- checksum and sandbox ------------------------------------------------------------------------
static void checksum_is_xxh128sum(void **state) {
  (void)state;
  char text[CHECKSUM_TEXT_CAPACITY];
  // As `printf '' | xxh128sum` prints.
  assert_string_equal(checksum_bytes(text, "", 0), "99aa06d3014798d86001c324468d497f");
}

static Status task_answer(uint8_t **result, size_t *size_bytes, void *context) {
  TRY(memory_alloc(result, 4, 1));
  memcpy(*result, context, 4);
  *size_bytes = 4;
  return STATUS_OK;
}

static Status task_refuse(uint8_t **result, size_t *size_bytes, void *context) {
  (void)result, (void)size_bytes, (void)context;
  return status_set(STATUS_CONFIG, "refused by the task");
}

static Status task_crash(uint8_t **result, size_t *size_bytes, void *context) {
  (void)result, (void)size_bytes, (void)context;
  abort();
  return STATUS_OK;
}

static Status task_hang(uint8_t **result, size_t *size_bytes, void *context) {
  (void)result, (void)size_bytes, (void)context;
  clock_sleep_ms(60000);
  return STATUS_OK;
}

static Status task_be_killed(uint8_t **result, size_t *size_bytes, void *context) {
  (void)result, (void)size_bytes, (void)context;
  (void)raise(SIGKILL);
  return STATUS_OK;
}

static Status task_be_asked_to_stop(uint8_t **result, size_t *size_bytes, void *context) {
  static const int requests[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) (void)raise(requests[i]);
  return task_answer(result, size_bytes, context);
}

static Status task_devour(uint8_t **result, size_t *size_bytes, void *context) {
  (void)size_bytes, (void)context;
  return memory_alloc(result, (size_t)1 << 30, 1);
}

static void sandbox_keeps_trouble_inside(void **state) {
  (void)state;
  SandboxLimits limits = {.deadline_s = 5, .memory_bytes = 64 << 20};
  uint8_t *result;
  size_t size;
  expect_ok(sandbox_run(&result, &size, &limits, task_answer, "abc", "x"));
  assert_int_equal(size, 4);
  assert_string_equal((char *)result, "abc");
  memory_free(result);
  assert_int_equal(sandbox_run(&result, &size, &limits, task_refuse, NULL, "x"), STATUS_CONFIG);
  assert_string_equal(status_message(), "refused by the task");
  assert_int_equal(sandbox_run(&result, &size, &limits, task_crash, NULL, "x"), STATUS_DATA);
  assert_non_null(strstr(status_message(), "signal 6"));
  // The task's own error; AddressSanitizer makes it a crash.
  assert_int_equal(sandbox_run(&result, &size, &limits, task_devour, NULL, "x"), STATUS_DATA);
  assert_int_equal(sandbox_run(&result, &size, &limits, task_be_killed, NULL, "x"), STATUS_OS);
  assert_non_null(strstr(status_message(), "x: its reader was killed"));
  expect_ok(sandbox_run(&result, &size, &limits, task_be_asked_to_stop, "abc", "x"));
  memory_free(result);
  limits.deadline_s = 0.2;
  assert_int_equal(sandbox_run(&result, &size, &limits, task_hang, NULL, "x"), STATUS_DATA);
  assert_non_null(strstr(status_message(), "not read within"));
}

// --- writing -------------------------------------------------------------------------------------
typedef struct Blob {
  uint8_t *bytes;
  size_t size;
} Blob;

// The pieces that Keras makes of `count` texts of `width` bytes: its own loop, with numpy's
// array_split (the first pieces are the longer ones).
static int64_t keras_pieces(int64_t count, int64_t width) {
  for (int64_t pieces = 1;; pieces++)
    if ((count + pieces - 1) / pieces * width <= H5_ATTRIBUTE_LIMIT) return pieces;
}

static void check_split(int64_t count, int width) {
  char **texts = calloc((size_t)count, sizeof *texts);
  for (int64_t i = 0; i < count; i++) {
    texts[i] = malloc((size_t)width + 1);
    (void)snprintf(texts[i], (size_t)width + 1, "%0*lld", width, (long long)i);
  }
  H5Image *image;
  Blob blob;
  H5File *file;
  H5Strings read;
  expect_ok(h5_image_create(&image));
  expect_ok(h5_image_set_strings(image, "", "names", (const char *const *)texts, count));
  expect_ok(h5_image_finish(image, &blob.bytes, &blob.size));
  h5_image_free(image);
  expect_ok(h5_open_bytes(&file, blob.bytes, blob.size, "split"));
  int64_t pieces = keras_pieces(count, width);
  assert_int_equal(h5_has_attribute(file, "", "names"), pieces == 1);
  for (int64_t i = 0; i < pieces + 1; i++) {
    char name[32];
    H5Strings piece;
    (void)snprintf(name, sizeof name, "names%lld", (long long)i);
    assert_int_equal(h5_has_attribute(file, "", name), pieces > 1 && i < pieces);
    if (pieces == 1 || i == pieces) continue;
    expect_ok(h5_read_strings(&piece, file, "", name));
    assert_int_equal(piece.count, count / pieces + (i < count % pieces));
    h5_strings_free(&piece);
  }
  expect_ok(h5_read_strings(&read, file, "", "names"));
  assert_int_equal(read.count, count);
  for (int64_t i = 0; i < count; i++) {
    assert_string_equal(read.items[i], texts[i]);
    free(texts[i]);
  }
  free(texts);
  h5_strings_free(&read);
  h5_close(file);
  memory_free(blob.bytes);
}

static void lists_are_split_as_keras_does(void **state) {
  (void)state;
  check_split(1, 5);
  check_split(64512 / 48, 48);     // exactly the limit
  check_split(64512 / 48 + 1, 48); // two pieces
  check_split(1000, 65);           // 65,000 bytes
  check_split(5000, 101);          // 505,000 bytes
  check_split(3, 64512);           // one text a piece
}

static Blob small_file(void) {
  static const char *const names[] = {"kernel:0", "bias:0"};
  static const float kernel[6] = {1, -2, 3.5f, 1e-38f, 0, 6};
  static const int64_t iteration = 123456789012;
  H5Image *image;
  Blob blob;
  expect_ok(h5_image_create(&image));
  expect_ok(h5_image_set_string(image, "", "model_config", "{\"name\": \"Bäume\"}"));
  expect_ok(h5_image_add_array(image, "a/b/kernel:0", DTYPE_F32, SHAPE(2, 3), kernel));
  expect_ok(h5_image_add_array(image, "iteration", DTYPE_I64, (Shape){0}, &iteration));
  expect_ok(h5_image_add_group(image, "a"));
  expect_ok(h5_image_add_group(image, "empty/inner"));
  expect_ok(h5_image_set_strings(image, "a", "weight_names", names, 2));
  expect_ok(h5_image_set_strings(image, "empty", "weight_names", NULL, 0));
  expect_ok(h5_image_finish(image, &blob.bytes, &blob.size));
  h5_image_free(image);
  return blob;
}

static void check_small_file(const H5File *file) {
  float kernel[6];
  int64_t iteration;
  char *text;
  H5Strings strings;
  DType dtype;
  Shape shape;
  expect_ok(h5_read_string(&text, file, "", "model_config"));
  assert_string_equal(text, "{\"name\": \"Bäume\"}");
  memory_free(text);
  expect_ok(h5_array_info(&dtype, &shape, file, "a/b/kernel:0"));
  assert_int_equal(dtype, DTYPE_F32);
  assert_true(shape_equal(shape, SHAPE(2, 3)));
  expect_ok(h5_read_array(kernel, file, "a/b/kernel:0", DTYPE_F32, 6));
  assert_true(kernel[2] == 3.5f && kernel[3] == 1e-38f);
  expect_ok(h5_read_array(&iteration, file, "iteration", DTYPE_I64, 1));
  assert_true(iteration == 123456789012);
  expect_ok(h5_read_strings(&strings, file, "a", "weight_names"));
  assert_int_equal(strings.count, 2);
  assert_string_equal(strings.items[1], "bias:0");
  h5_strings_free(&strings);
  expect_ok(h5_read_strings(&strings, file, "empty", "weight_names"));
  assert_int_equal(strings.count, 0);
  h5_strings_free(&strings);
  expect_ok(h5_list(&strings, file, ""));
  assert_int_equal(strings.count, 3);
  assert_string_equal(strings.items[0], "a");
  h5_strings_free(&strings);
  assert_int_equal(h5_kind(file, "empty/inner"), H5_KIND_GROUP);
  assert_int_equal(h5_kind(file, "a/b/kernel:0"), H5_KIND_ARRAY);
  assert_int_equal(h5_kind(file, "a/none/kernel:0"), H5_ABSENT);
  assert_int_equal(h5_read_array(kernel, file, "a/b/kernel:0", DTYPE_F32, 5), STATUS_DATA);
  assert_int_equal(h5_read_array(kernel, file, "a/b", DTYPE_F32, 5), STATUS_DATA);
  assert_int_equal(h5_read_string(&text, file, "a", "none"), STATUS_DATA);
}

static void write_file(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static char scratch[] = "/tmp/imgcls-h5-XXXXXX";
static char path_of[256];

static const char *scratch_path(const char *name) {
  (void)snprintf(path_of, sizeof path_of, "%s/%s", scratch, name);
  return path_of;
}

static int set_up(void **state) {
  (void)state;
  return mkdtemp(scratch) ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  char command[128];
  (void)snprintf(command, sizeof command, "rm -rf %s", scratch);
  return system(command);
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  Blob blob = small_file(), again = small_file();
  assert_int_equal(blob.size, again.size);
  assert_memory_equal(blob.bytes, again.bytes, blob.size);
  H5File *file, *second;
  expect_ok(h5_open_bytes(&file, blob.bytes, blob.size, "one"));
  expect_ok(h5_open_bytes(&second, again.bytes, again.size, "two"));
  check_small_file(file);
  check_small_file(second);
  h5_close(file);
  h5_close(second);
  const char *path = scratch_path("small.h5");
  write_file(path, blob.bytes, blob.size);
  expect_ok(h5_open(&file, path)); // through the child
  assert_string_equal(h5_name(file), path);
  check_small_file(file);
  h5_close(file);
  memory_free(blob.bytes);
  memory_free(again.bytes);
}

#ifndef __SANITIZE_ADDRESS__ // it takes more address space than any limit would leave
// Bytes of this process' address space.
static size_t held_bytes(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  assert_non_null(file);
  assert_int_equal(fscanf(file, "%lu", &pages), 1);
  (void)fclose(file);
  return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

// An array of 48 MiB, of which its reader makes a copy, where the user's limit leaves 40 beside it.
static void memory_that_lacks_is_no_damage(void **state) {
  (void)state;
  enum { MIB = 1 << 20, ARRAY = 48 * MIB };
  Shape shape = {.rank = 1, .dim = {ARRAY / sizeof(float)}};
  const char *path = scratch_path("large.h5");
  float *values;
  H5Image *image;
  uint8_t *bytes;
  size_t size;
  expect_ok(memory_alloc(&values, ARRAY, 1));
  expect_ok(h5_image_create(&image));
  expect_ok(h5_image_add_array(image, "w", DTYPE_F32, shape, values));
  expect_ok(h5_image_finish(image, &bytes, &size));
  write_file(path, bytes, size);
  memory_free(bytes);
  memory_free(values);
  h5_image_free(image);
  H5File *file;
  expect_ok(h5_open(&file, path));
  h5_close(file);
  struct rlimit before, small;
  assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
  small = before;
  small.rlim_cur = held_bytes() + ARRAY + 40 * MIB;
  assert_int_equal(setrlimit(RLIMIT_AS, &small), 0);
  Status status = h5_open(&file, path);
  assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
  assert_int_equal(status, STATUS_OS);
  assert_non_null(strstr(status_message(), "large.h5: "));
}
#endif

// --- files of others -----------------------------------------------------------------------------
static hid_t new_file(const char *path) {
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(file >= 0);
  return file;
}

static void add_plain(hid_t file, const char *name) {
  hsize_t dim = 4;
  float values[4] = {1, 2, 3, 4};
  hid_t space = H5Screate_simple(1, &dim, NULL);
  hid_t dataset =
      H5Dcreate2(file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

// Types, storage and strings that other writers choose.
static void others_choices_are_read(void **state) {
  (void)state;
  const char *path = scratch_path("foreign.h5");
  hid_t file = new_file(path);
  hsize_t dims[2] = {64, 64};
  double values[64 * 64];
  for (int i = 0; i < 64 * 64; i++) values[i] = i % 7;
  hid_t space = H5Screate_simple(2, dims, NULL);
  hid_t gzip = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(gzip, 2, dims);
  H5Pset_shuffle(gzip);
  H5Pset_deflate(gzip, 6);
  hid_t dataset = H5Dcreate2(file, "double", H5T_IEEE_F64BE, space, H5P_DEFAULT, gzip, H5P_DEFAULT);
  H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  H5Dclose(dataset);
  hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  const char *names[2] = {"first", "second/kernel:0"};
  hsize_t two = 2;
  hid_t list = H5Screate_simple(1, &two, NULL);
  hid_t attribute = H5Acreate2(file, "layer_names", text, list, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, text, names);
  H5Aclose(attribute);
  hid_t fixed = H5Tcopy(H5T_C_S1);
  H5Tset_size(fixed, 8);
  H5Tset_strpad(fixed, H5T_STR_SPACEPAD);
  hid_t scalar = H5Screate(H5S_SCALAR);
  attribute = H5Acreate2(file, "backend", fixed, scalar, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, fixed, "tensor  ");
  H5Aclose(attribute);
  hsize_t zero = 0; // numpy's empty list
  hid_t none = H5Screate_simple(1, &zero, NULL);
  attribute = H5Acreate2(file, "weight_names", H5T_IEEE_F64LE, none, H5P_DEFAULT, H5P_DEFAULT);
  H5Aclose(attribute);
  H5Fclose(file);

  H5File *read;
  H5Strings strings;
  float floats[64 * 64];
  char *word;
  expect_ok(h5_open(&read, path));
  expect_ok(h5_read_array(floats, read, "double", DTYPE_F32, 64 * 64));
  for (int i = 0; i < 64 * 64; i++) assert_true(floats[i] == (float)(i % 7));
  expect_ok(h5_read_strings(&strings, read, "", "layer_names"));
  assert_int_equal(strings.count, 2);
  assert_string_equal(strings.items[1], names[1]);
  h5_strings_free(&strings);
  expect_ok(h5_read_string(&word, read, "", "backend"));
  assert_string_equal(word, "tensor");
  memory_free(word);
  expect_ok(h5_read_strings(&strings, read, "", "weight_names"));
  assert_int_equal(strings.count, 0);
  h5_close(read);
}

static void expect_refused(const char *path, const char *reason) {
  H5File *file;
  Status status = h5_open(&file, path);
  assert_null(file);
  assert_int_equal(status, STATUS_DATA);
  if (!strstr(status_message(), reason) || !strstr(status_message(), path))
    fail_msg("\"%s\" does not name %s and \"%s\"", status_message(), path, reason);
}

static void evil_external_link(hid_t file) {
  H5Lcreate_external("/etc/other.h5", "/x", file, "link", H5P_DEFAULT, H5P_DEFAULT);
}

static void evil_soft_loop(hid_t file) {
  H5Lcreate_soft("/b", file, "a", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/a", file, "b", H5P_DEFAULT, H5P_DEFAULT);
}

static void evil_hard_loop(hid_t file) {
  hid_t group = H5Gcreate2(file, "a", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_hard(file, "/a", group, "again", H5P_DEFAULT, H5P_DEFAULT);
  H5Gclose(group);
}

static void evil_external_storage(hid_t file) {
  hsize_t dim = 4;
  hid_t space = H5Screate_simple(1, &dim, NULL);
  hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(list, "/etc/hostname", 0, 16);
  H5Dclose(H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
}

static void evil_virtual(hid_t file) {
  hsize_t dim = 4;
  hid_t space = H5Screate_simple(1, &dim, NULL);
  hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_virtual(list, space, "/tmp/other.h5", "/x", space);
  H5Dclose(H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
}

// 4 TB that nothing was ever written to, plain and compressed.
static void add_huge(hid_t file, bool compressed) {
  hsize_t dims[2] = {1 << 20, 1 << 20};
  hsize_t chunk[2] = {1024, 1024};
  hid_t space = H5Screate_simple(2, dims, NULL);
  hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(list, H5D_ALLOC_TIME_LATE);
  if (compressed) {
    H5Pset_chunk(list, 2, chunk);
    H5Pset_deflate(list, 9);
  }
  H5Dclose(H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
}

static void evil_huge(hid_t file) {
  add_huge(file, false);
}
static void evil_bomb(hid_t file) {
  add_huge(file, true);
}

static void evil_filter(hid_t file) {
  hsize_t dim = 4;
  hid_t space = H5Screate_simple(1, &dim, NULL);
  hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(list, 1, &dim);
  H5Pset_filter(list, 32001, H5Z_FLAG_OPTIONAL, 0, NULL);
  H5Dclose(H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT));
}

static void evil_rank(hid_t file) {
  hsize_t dims[6] = {1, 1, 1, 1, 1, 1};
  float one = 1;
  hid_t space = H5Screate_simple(6, dims, NULL);
  hid_t set = H5Dcreate2(file, "x", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, &one);
  H5Dclose(set);
}

static void evil_depth(hid_t file) {
  hid_t group = H5Gopen2(file, "/", H5P_DEFAULT);
  for (int i = 0; i < 40; i++) {
    hid_t inner = H5Gcreate2(group, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(group);
    group = inner;
  }
  H5Gclose(group);
}

static void evil_files_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *name, *reason;
    void (*make)(hid_t file);
  } cases[] = {
      {"external_link", "external link", evil_external_link},
      {"soft_loop", "soft link", evil_soft_loop},
      {"hard_loop", "2 names", evil_hard_loop},
      {"external_storage", "external storage", evil_external_storage},
      {"virtual", "virtual dataset", evil_virtual},
      {"huge", "cannot be in a file", evil_huge},
      {"bomb", "cannot be in a file", evil_bomb},
      {"filter", "filter 32001", evil_filter},
      {"rank", "6 dimensions", evil_rank},
      {"depth", "deep", evil_depth},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *path = scratch_path(cases[i].name);
    hid_t file = new_file(path);
    add_plain(file, "good");
    cases[i].make(file);
    H5Fclose(file);
    expect_refused(path, cases[i].reason);
  }
  const char *path = scratch_path("text");
  write_file(path, "no model at all", 15);
  expect_refused(path, "no HDF5 file");
  path = scratch_path("empty");
  write_file(path, "", 0);
  expect_refused(path, "no HDF5 file");
  path = scratch_path("zip");
  write_file(path, "PK\3\4........", 12);
  expect_refused(path, "save the model as .h5");
  H5File *file;
  assert_int_equal(h5_open(&file, scratch_path("absent")), STATUS_NO_INPUT);
  assert_int_equal(h5_open(&file, scratch), STATUS_DATA); // a folder
}

// Damage at random places: the process lives, and says which file it refused.
static void damaged_files_do_no_harm(void **state) {
  (void)state;
  enum { TRIALS = 300 };
  Blob blob = small_file();
  const char *path = scratch_path("damaged");
  uint8_t *copy = malloc(blob.size);
  int refused = 0;
  for (int i = 0; i < TRIALS; i++) {
    RngWords words = rng_draw(11, RNG_SYNTHETIC, (uint64_t)i, 0, 0);
    size_t size = blob.size;
    memcpy(copy, blob.bytes, size);
    if (i < 20)
      size = blob.size * (size_t)i / 20;
    else
      for (uint32_t j = 0; j < 1 + words.word[0] % 8; j++) {
        RngWords place = rng_draw(11, RNG_SYNTHETIC, (uint64_t)i, j + 1, 0);
        copy[place.word[0] % size] ^= (uint8_t)(1u << place.word[1] % 8);
      }
    write_file(path, copy, size);
    H5File *file;
    Status status = h5_open(&file, path);
    if (status != STATUS_OK) {
      assert_null(file);
      assert_int_equal(status, STATUS_DATA);
      assert_non_null(strstr(status_message(), path));
      refused++;
    }
    h5_close(file);
  }
  // Every cut is noticed; of the rest, what hits the structure.
  assert_true(refused >= 20 && refused < TRIALS);
  free(copy);
  memory_free(blob.bytes);
}

int main(void) {
  (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(checksum_is_xxh128sum),
      cmocka_unit_test(sandbox_keeps_trouble_inside),
#ifndef __SANITIZE_ADDRESS__
      cmocka_unit_test(memory_that_lacks_is_no_damage),
#endif
      cmocka_unit_test(lists_are_split_as_keras_does),
      cmocka_unit_test(what_is_written_reads_back),
      cmocka_unit_test(others_choices_are_read),
      cmocka_unit_test(evil_files_are_refused),
      cmocka_unit_test(damaged_files_do_no_harm),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
