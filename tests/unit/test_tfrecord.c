// io/tfrecord: records byte by byte, against the CRC-32C values of RFC 3720, B.4.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/tfrecord.h"

enum { PAYLOAD = 32, RECORD = 8 + 4 + PAYLOAD + 4 };

static uint32_t mask(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static uint32_t read_u32(const uint8_t *bytes) {
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void expect_ok(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

static void records_have_the_standard_checksums(void **state) {
  (void)state;
  static const struct {
    uint8_t first, step;
    uint32_t crc;
  } payloads[] = {
      {0, 0, 0x8a9136aa}, {0xff, 0, 0x62a8ab43}, {0, 1, 0x46dd794e}, {31, 0xff, 0x113fdb5c}};
  enum { COUNT = sizeof payloads / sizeof *payloads };
  char path[] = "/tmp/imgcls-tfrecord-XXXXXX";
  assert_non_null(mkdtemp(path));
  char name[64];
  (void)snprintf(name, sizeof name, "%s/events", path);
  TfRecordWriter writer;
  expect_ok(tfrecord_create(&writer, name));
  for (int i = 0; i < COUNT; i++) {
    uint8_t payload[PAYLOAD];
    for (int k = 0; k < PAYLOAD; k++)
      payload[k] = (uint8_t)(payloads[i].first + k * payloads[i].step);
    expect_ok(tfrecord_append(&writer, payload, sizeof payload));
  }
  tfrecord_close(&writer);
  Bytes bytes = {0};
  expect_ok(file_read(&bytes, name, 1 << 20));
  assert_int_equal(bytes.size, COUNT * RECORD);
  for (int i = 0; i < COUNT; i++) {
    const uint8_t *record = bytes.data + (size_t)i * RECORD;
    static const uint8_t length[8] = {PAYLOAD};
    assert_memory_equal(record, length, sizeof length);
    // every record has the same length, and so the same checksum of it
    assert_int_equal(read_u32(record + 8), read_u32(bytes.data + 8));
    assert_int_equal(read_u32(record + 12 + PAYLOAD), mask(payloads[i].crc));
  }
  bytes_deinit(&bytes);
  assert_int_equal(tfrecord_create(&writer, name), STATUS_CANT_CREATE); // never over another's file
  (void)unlink(name);
  (void)rmdir(path);
}

static void a_full_disk_is_an_error(void **state) {
  (void)state;
  if (access("/dev/full", W_OK) != 0) skip();
  TfRecordWriter writer;
  char path[] = "/tmp/imgcls-tfrecord-XXXXXX";
  assert_non_null(mkdtemp(path));
  char name[64];
  (void)snprintf(name, sizeof name, "%s/events", path);
  expect_ok(tfrecord_create(&writer, name));
  FILE *full = fopen("/dev/full", "w");
  assert_non_null(full);
  assert_int_not_equal(dup2(fileno(full), writer.fd), -1);
  assert_int_equal(tfrecord_append(&writer, "x", 1), STATUS_IO);
  assert_non_null(strstr(status_message(), name));
  tfrecord_close(&writer);
  (void)fclose(full);
  (void)unlink(name);
  (void)rmdir(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(records_have_the_standard_checksums),
      cmocka_unit_test(a_full_disk_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
