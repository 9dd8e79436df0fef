// safetensors files: sound ones, and a table of hostile ones.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/tensor_file.h"

// A file of this header and as many bytes of values; the length may lie.
static Status open_header(TensorFile **out, const char *header, int64_t length, size_t values) {
  size_t size = 8 + strlen(header) + values;
  uint8_t *bytes = calloc(size, 1);
  uint64_t told = length < 0 ? strlen(header) : (uint64_t)length;
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(told >> 8 * i);
  memcpy(bytes + 8, header, strlen(header));
  for (size_t i = 0; i < values; i++) bytes[8 + strlen(header) + i] = (uint8_t)i;
  Status status = tensor_file_open_bytes(out, bytes, size, "hostile");
  free(bytes);
  return status;
}

#define TENSOR(name, dtype, shape, from, to)                                                       \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"

static void test_hostile(void **state) {
  (void)state;
  static const struct {
    const char *header;
    int64_t length; // -1: its own
    size_t values;
    const char *message;
  } cases[] = {
      {"", -1, 0, "no safetensors file"},
      {"[]", -1, 0, "no safetensors file"},
      {"{", -1, 0, "no JSON"},
      {"{}", 1000, 0, "was cut off"},
      {"{}", INT64_MAX, 0, "no safetensors file"},
      {"{}x", -1, 0, "no JSON"},
      {"{}", -1, 4, "4 bytes behind its last tensor"},
      {"{\"a\":1}", -1, 0, "has dtype of no name"},
      {"{\"a\":{}}", -1, 0, "has dtype of no name"},
      {"{" TENSOR("a", "F8_E4M3", "[1]", "0", "1") "}", -1, 1, "has dtype F8_E4M3"},
      {"{" TENSOR("a", "F32", "1", "0", "4") "}", -1, 4, "it has no shape"},
      {"{" TENSOR("a", "F32", "[1,1,1,1,1]", "0", "4") "}", -1, 4, "5 dimensions"},
      {"{" TENSOR("a", "F32", "[-1]", "0", "4") "}", -1, 4, "its shape is none"},
      {"{" TENSOR("a", "F32", "[1.5]", "0", "4") "}", -1, 4, "its shape is none"},
      {"{" TENSOR("a", "F32", "[\"1\"]", "0", "4") "}", -1, 4, "its shape is none"},
      {"{" TENSOR("a", "F32", "[9000000000000000000,9]", "0", "4") "}", -1, 4, "shape is none"},
      // 2^62 floats have 2^64 bytes, which is 0 in 64 bits.
      {"{" TENSOR("a", "F32", "[4611686018427387904]", "0", "0") "}", -1, 0, "disagree"},
      {"{" TENSOR("a", "F32", "[99999999999999999999]", "0", "4") "}", -1, 4, "no JSON"},
      {"{" TENSOR("a", "F32", "[1]", "0", "3") "}", -1, 4, "disagree"},
      {"{" TENSOR("a", "F32", "[1]", "4", "0") "}", -1, 4, "its data_offsets are none"},
      {"{" TENSOR("a", "F32", "[1]", "-4", "0") "}", -1, 4, "its data_offsets are none"},
      {"{" TENSOR("a", "F32", "[1]", "0", "4,8") "}", -1, 4, "its data_offsets are none"},
      {"{" TENSOR("a", "F32", "[1]", "0", "4.0") "}", -1, 4, "its data_offsets are none"},
      {"{" TENSOR("a", "F32", "[1]", "4", "8") "}", -1, 4, "end behind the file's end"},
      {"{" TENSOR("a", "F32", "[1]", "0", "9223372036854775807") "}", -1, 4, "behind the file's"},
      {"{" TENSOR("a", "F32", "[1]", "4", "8") "}", -1, 8, "a hole precedes"},
      {"{" TENSOR("a", "F32", "[2]", "0", "8") "," TENSOR("b", "F32", "[1]", "4", "8") "}", -1, 8,
       "overlap"},
      {"{" TENSOR("a", "F32", "[1]", "0", "4") "," TENSOR("b", "F32", "[1]", "0", "4") "}", -1, 4,
       "overlap"},
      {"{" TENSOR("a", "F32", "[1]", "0", "4") "," TENSOR("a", "F32", "[1]", "4", "8") "}", -1, 8,
       "no JSON: duplicate"},
      {"{" TENSOR("a\\u0000b", "F32", "[1]", "0", "4") "}", -1, 4, "no JSON"},
      {"{" TENSOR("\xff", "F32", "[1]", "0", "4") "}", -1, 4, "no JSON"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    TensorFile *file = (TensorFile *)&file;
    Status status = open_header(&file, cases[i].header, cases[i].length, cases[i].values);
    if (status != STATUS_DATA || !strstr(status_message(), cases[i].message))
      fail_msg("%s: %d, \"%s\"", cases[i].header, (int)status, status_message());
    assert_null(file);
    assert_non_null(strstr(status_message(), "hostile"));
  }
}

// Every length of a sound file is refused but its own.
static void test_cut_off(void **state) {
  (void)state;
  static const char header[] = "{" TENSOR("a", "F32", "[2]", "0", "8") "}";
  uint8_t bytes[8 + sizeof header - 1 + 8] = {sizeof header - 1};
  memcpy(bytes + 8, header, sizeof header - 1);
  for (size_t size = 0; size <= sizeof bytes; size++) {
    TensorFile *file;
    Status status = tensor_file_open_bytes(&file, bytes, size, "cut");
    assert_int_equal(status, size == sizeof bytes ? STATUS_OK : STATUS_DATA);
    tensor_file_close(file);
  }
}

static void test_sound(void **state) {
  (void)state;
  TensorFile *file;
  static const char header[] = "{" TENSOR("b", "F32", "[2,0]", "4", "4")                 //
      "," TENSOR("c", "I64", "[]", "4", "12") "," TENSOR("a", "BF16", "[1,2]", "0", "4") //
      ",\"__metadata__\":{\"format\":\"pt\"}}    ";
  assert_int_equal(open_header(&file, header, -1, 12), STATUS_OK);
  assert_int_equal(tensor_file_count(file), 3);
  assert_string_equal(tensor_file_name(file), "hostile");
  TensorEntry a = tensor_file_entry(file, 0), c = tensor_file_entry(file, 2);
  assert_string_equal(a.name, "a");
  assert_true(a.is_float && shape_equal(a.shape, SHAPE(1, 2)));
  assert_true(!c.is_float && c.shape.rank == 0);
  assert_int_equal(tensor_file_find(file, "b"), 1);
  assert_int_equal(tensor_file_find(file, "bb"), -1);
  float values[2];
  assert_int_equal(tensor_file_read(values, file, 0), STATUS_OK);
  static const uint32_t expected[] = {0x01000000, 0x03020000};
  assert_memory_equal(values, expected, sizeof expected);
  assert_int_equal(tensor_file_read(values, file, 1), STATUS_OK);
  assert_int_equal(tensor_file_read(values, file, 2), STATUS_DATA);
  tensor_file_close(file);
}

// Every half against its definition (IEEE 754 binary16).
static void test_halves(void **state) {
  (void)state;
  static const char header[] = "{" TENSOR("a", "F16", "[65536]", "0", "131072") "}";
  size_t start = 8 + sizeof header - 1, size = start + 131072;
  uint8_t *bytes = calloc(size, 1);
  float *values = calloc(65536, sizeof *values);
  bytes[0] = sizeof header - 1;
  memcpy(bytes + 8, header, sizeof header - 1);
  for (size_t i = 0; i < 65536; i++) {
    bytes[start + 2 * i] = (uint8_t)i;
    bytes[start + 2 * i + 1] = (uint8_t)(i >> 8);
  }
  TensorFile *file;
  assert_int_equal(tensor_file_open_bytes(&file, bytes, size, "halves"), STATUS_OK);
  assert_int_equal(tensor_file_read(values, file, 0), STATUS_OK);
  for (int i = 0; i < 65536; i++) {
    int exponent = i >> 10 & 31, fraction = i & 1023;
    double size_of = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    if (exponent == 31) size_of = fraction ? NAN : INFINITY;
    if (isnan(size_of)) {
      assert_true(isnan(values[i]));
      continue;
    }
    assert_true((double)values[i] == (i & 0x8000 ? -size_of : size_of));
    assert_int_equal(!!signbit(values[i]), i >> 15);
  }
  tensor_file_close(file);
  free(values);
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hostile),
      cmocka_unit_test(test_cut_off),
      cmocka_unit_test(test_sound),
      cmocka_unit_test(test_halves),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
