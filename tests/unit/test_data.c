// Datasets from folders and packed files: order, hostile names and files, the index as a block.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <xxhash.h>

#include "base/memory.h"
#include "data/dataset.h"
#include "data/packed.h"
#include "data/packed_format.h"
#include "data_fixture.h"

static Dataset *open_dataset(const Fixture *fixture, DatasetDesc desc) {
  Dataset *dataset;
  desc.path = fixture->dir;
  Status status = dataset_open(&dataset, &desc, NULL);
  if (status != STATUS_OK) print_error("%s\n", status_message());
  assert_int_equal(status, STATUS_OK);
  return dataset;
}

static void assert_refused(const Fixture *fixture, DatasetDesc desc, Status status,
                           const char *words) {
  Dataset *dataset;
  if (!desc.path) desc.path = fixture->dir;
  assert_int_equal(dataset_open(&dataset, &desc, NULL), status);
  assert_null(dataset);
  if (!strstr(status_message(), words)) print_error("%s\n", status_message());
  assert_non_null(strstr(status_message(), words));
}

static void assert_names(const Dataset *dataset, const char *const *names, int64_t count) {
  assert_int_equal(dataset_sample_count(dataset), count);
  for (int64_t i = 0; i < count; i++) {
    char *name;
    assert_int_equal(dataset_copy_name(&name, dataset, i), STATUS_OK);
    assert_string_equal(name, names[i]);
    memory_free(name);
  }
}

// --- folders -------------------------------------------------------------------------------------

// The order that Python's sorted(os.walk()) gives: by the folder's path, where ' ' and '-' come
// before '/'.
static void folders_are_listed_as_keras_lists_them(void **state) {
  Fixture *fixture = *state;
  static const char *const files[] = {
      "b/z.png",     "b/A.JPG",   "b/sub/a.gif", "b/sub-2/a.bmp", "b/sub 1/a.jpeg", "b/sub/x/y.Png",
      "a/notes.txt", "a/pngfile", "a/.png",      "a/x.webp",      ".hidden/a.png",  "B/q.png",
  };
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) fixture_file(fixture, files[i], "x", 1);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  static const char *const wanted[] = {"B/q.png",       "a/.png",       "b/A.JPG",
                                       "b/z.png",       "b/sub/a.gif",  "b/sub 1/a.jpeg",
                                       "b/sub-2/a.bmp", "b/sub/x/y.Png"};
  assert_names(dataset, wanted, 8);
  assert_int_equal(dataset_class_count(dataset), 3);
  assert_string_equal(dataset_class_name(dataset, 0), "B");
  assert_int_equal(dataset_class_size(dataset, 2), 6);
  assert_int_equal(dataset_label(dataset, 0), 0);
  assert_int_equal(dataset_label(dataset, 1), 1);
  assert_int_equal(dataset_label(dataset, 7), 2);
  assert_false(dataset_is_packed(dataset));
  dataset_close(dataset);
}

static void class_names_choose_and_order(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 3, 1);
  static const char *const names[] = {"class2", "class0"};
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){.class_names = names, .class_count = 2});
  static const char *const wanted[] = {"class2/img000.png", "class0/img000.png"};
  assert_names(dataset, wanted, 2);
  assert_int_equal(dataset_label(dataset, 1), 1);
  dataset_close(dataset);
  static const char *const missing[] = {"class2", "clas0"}, *const twice[] = {"class2", "class2"};
  assert_refused(fixture, (DatasetDesc){.class_names = missing, .class_count = 2}, STATUS_CONFIG,
                 "no class folder 'clas0'");
  assert_refused(fixture, (DatasetDesc){.class_names = twice, .class_count = 2}, STATUS_CONFIG,
                 "'class2' twice");
}

static void unusable_folders_are_named(void **state) {
  Fixture *fixture = *state;
  assert_refused(fixture, (DatasetDesc){0}, STATUS_NO_INPUT, "has no folders");
  assert_refused(fixture, (DatasetDesc){.path = "/nonexistent/x"}, STATUS_NO_INPUT,
                 "/nonexistent/x");
  assert_refused(fixture, (DatasetDesc){.path = "/dev/null"}, STATUS_NO_INPUT, "neither a folder");
  fixture_file(fixture, "a.png", "x", 1);
  assert_refused(fixture, (DatasetDesc){0}, STATUS_NO_INPUT, "1 images but no folder per class");
  fixture_file(fixture, "cats/a.png", "x", 1);
  assert_refused(fixture, (DatasetDesc){0}, STATUS_CONFIG, "only one class, 'cats'");
  fixture_folder(fixture, "dogs");
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0}); // an empty class keeps its label
  assert_int_equal(dataset_class_size(dataset, 1), 0);
  dataset_close(dataset);
  assert_int_equal(unlink(fixture_path(fixture, "cats/a.png")), 0);
  assert_refused(fixture, (DatasetDesc){0}, STATUS_NO_INPUT, "no image in any class folder");
}

static void unreadable_folder_is_named(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 1);
  assert_int_equal(chmod(fixture_path(fixture, "class1"), 0), 0);
  assert_int_equal(chmod(fixture->dir, 0755), 0);
  bool root = geteuid() == 0;
  if (root) assert_int_equal(seteuid(65534), 0); // root may read everything
  assert_refused(fixture, (DatasetDesc){0}, STATUS_PERMISSION, "class1");
  if (root) assert_int_equal(seteuid(0), 0);
}

static void hostile_entries_are_left_out(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 1);
  fixture_file(fixture, "class0/new\nline.png", "x", 1);
  fixture_file(fixture, "class0/\xff\xfe.png", "x", 1);
  char longest[300] = "class1/";
  memset(longest + 7, 'l', 251);
  (void)strcpy(longest + 7 + 251, ".png"); // 255 bytes
  fixture_file(fixture, longest, "x", 1);
  assert_int_equal(mkfifo(fixture_path(fixture, "class0/pipe.png"), 0666), 0);
  assert_int_equal(symlink("/", fixture_path(fixture, "class0/root")), 0);
  assert_int_equal(symlink("../class1/img000.png", fixture_path(fixture, "class0/link.png")), 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  FIXTURE_PRINT(address.sun_path, "%s", fixture_path(fixture, "class0/s.png"));
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  (void)close(fd);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  const char *const wanted[] = {"class0/img000.png", "class0/new\nline.png", "class0/\xff\xfe.png",
                                "class1/img000.png", longest};
  assert_names(dataset, wanted, 5);
  dataset_close(dataset);
  fixture_file(fixture, "bad\xff/a.png", "x", 1);
  assert_refused(fixture, (DatasetDesc){0}, STATUS_CONFIG, "not UTF-8");
}

static void links_are_followed_where_asked(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 1);
  fixture_image(fixture, "elsewhere.d/deep/x.png", 3, 4, 4);
  assert_int_equal(rename(fixture_path(fixture, "elsewhere.d"), "/tmp/imgcls-elsewhere.d"), 0);
  assert_int_equal(symlink("/tmp/imgcls-elsewhere.d", fixture_path(fixture, "class0/far")), 0);
  assert_int_equal(symlink("..", fixture_path(fixture, "class0/up")), 0);
  assert_int_equal(symlink(".", fixture_path(fixture, "class1/self")), 0);
  assert_int_equal(symlink("nowhere", fixture_path(fixture, "class1/gone.png")), 0);
  assert_int_equal(symlink("img000.png", fixture_path(fixture, "class1/twin.png")), 0);
  assert_int_equal(symlink("class1", fixture_path(fixture, "class2")), 0);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){.follow_symlinks = true});
  // "up" shows the dataset once more; its own copy of "up", "far" and "self" lead back.
  static const char *const wanted[] = {
      "class0/img000.png",           "class0/far/deep/x.png",
      "class0/up/class1/img000.png", "class0/up/class1/twin.png",
      "class0/up/class2/img000.png", "class0/up/class2/twin.png",
      "class1/img000.png",           "class1/twin.png",
      "class2/img000.png",           "class2/twin.png",
  };
  assert_names(dataset, wanted, 10);
  dataset_close(dataset);
  assert_int_equal(system("rm -r /tmp/imgcls-elsewhere.d"), 0);
}

static void deep_folders_end_with_a_message(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 1);
  char name[101];
  memset(name, 'd', 100);
  name[100] = '\0';
  char before[FIXTURE_PATH];
  assert_non_null(getcwd(before, sizeof before));
  assert_int_equal(chdir(fixture_path(fixture, "class0")), 0);
  for (int i = 0; i < 50; i++) { // 5000 bytes: no single path leads there
    assert_int_equal(mkdir(name, 0777), 0);
    assert_int_equal(chdir(name), 0);
  }
  assert_int_equal(chdir(before), 0);
  assert_refused(fixture, (DatasetDesc){0}, STATUS_NO_INPUT, "is longer than");
}

// --- the index as a block ------------------------------------------------------------------------

static void index_travels(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 3, 4);
  fixture_file(fixture, "class1/sub/x.jpg", "x", 1);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0}), *copy;
  Bytes block = {0};
  assert_int_equal(dataset_write_index(&block, dataset), STATUS_OK);
  assert_int_equal(dataset_read_index(&copy, block.data, block.size), STATUS_OK);
  assert_int_equal(dataset_sample_count(copy), 13);
  assert_int_equal(dataset_fingerprint(copy), dataset_fingerprint(dataset));
  assert_string_equal(dataset_source(copy), fixture->dir);
  for (int64_t i = 0; i < 13; i++) {
    char *a, *b;
    assert_int_equal(dataset_copy_name(&a, dataset, i), STATUS_OK);
    assert_int_equal(dataset_copy_name(&b, copy, i), STATUS_OK);
    assert_string_equal(a, b);
    assert_int_equal(dataset_label(dataset, i), dataset_label(copy, i));
    memory_free(a);
    memory_free(b);
  }
  dataset_close(copy);
  for (size_t size = 0; size < block.size; size++) { // cut off anywhere
    uint8_t *exact = malloc(size + 1);               // so that ASan sees a byte too far
    memcpy(exact, block.data, size);
    assert_int_equal(dataset_read_index(&copy, exact, size), STATUS_DATA);
    free(exact);
  }
  for (size_t i = 0; i < block.size; i++) { // wrong anywhere: refused, or another sound dataset
    uint8_t was = block.data[i];
    block.data[i] = (uint8_t)(was ^ 0xff);
    if (dataset_read_index(&copy, block.data, block.size) == STATUS_OK) {
      for (int64_t k = 0; k < dataset_sample_count(copy); k++) (void)dataset_label(copy, k);
      dataset_close(copy);
    }
    block.data[i] = was;
  }
  bytes_deinit(&block);
  dataset_close(dataset);
}

static void fingerprint_sees_names_and_labels(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  uint64_t before = dataset_fingerprint(dataset);
  dataset_close(dataset);
  char from[FIXTURE_PATH];
  (void)strcpy(from, fixture_path(fixture, "class0/img001.png"));
  assert_int_equal(rename(from, fixture_path(fixture, "class1/img002.png")), 0);
  dataset = open_dataset(fixture, (DatasetDesc){0});
  assert_true(dataset_fingerprint(dataset) != before);
  dataset_close(dataset);
}

// --- pixels --------------------------------------------------------------------------------------

static void pixels_come_as_they_are(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  fixture_file(fixture, "class1/img002.png", "nonsense", 8);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  SampleLimits limits = sample_limits_default();
  SampleTarget target = {.height = 12, .width = 12};
  uint8_t pixels[12 * 12 * 3];
  Bytes scratch = {0};
  assert_int_equal(dataset_read_pixels(pixels, dataset, 3, &target, &limits, &scratch), STATUS_OK);
  for (int y = 0; y < 12; y++)
    for (int x = 0; x < 12; x++)
      for (int c = 0; c < 3; c++)
        assert_int_equal(pixels[(y * 12 + x) * 3 + c], fixture_pixel(3, y, x, c));
  assert_int_equal(dataset_read_pixels(pixels, dataset, 4, &target, &limits, &scratch),
                   STATUS_DATA);
  assert_non_null(strstr(status_message(), "class1/img002.png"));
  assert_int_equal(unlink(fixture_path(fixture, "class0/img000.png")), 0);
  assert_int_equal(dataset_read_pixels(pixels, dataset, 0, &target, &limits, &scratch),
                   STATUS_NO_INPUT);
  limits.max_file_bytes = 10;
  assert_int_equal(dataset_read_pixels(pixels, dataset, 1, &target, &limits, &scratch),
                   STATUS_DATA);
  bytes_deinit(&scratch);
  dataset_close(dataset);
}

// Files from anywhere, one of them twice; what is no file is found when it is read.
static void files_are_taken_as_listed(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  Dataset *folder = open_dataset(fixture, (DatasetDesc){0}), *files;
  char *name, *path;
  assert_int_equal(dataset_copy_name(&name, folder, 3), STATUS_OK);
  assert_int_equal(memory_print_string(&path, "%s/%s", fixture->dir, name), STATUS_OK);
  const char *const paths[] = {path, "nowhere.png", path};
  assert_int_equal(dataset_open_files(&files, paths, 3), STATUS_OK);
  assert_names(files, paths, 3);
  SampleLimits limits = sample_limits_default();
  Bytes scratch = {0};
  Image wanted, got;
  ImageSize size;
  assert_int_equal(dataset_read_image(&wanted, folder, 3, &limits, &scratch), STATUS_OK);
  for (int64_t i = 0; i < 3; i += 2) {
    assert_int_equal(dataset_label(files, i), 0);
    assert_int_equal(dataset_read_image(&got, files, i, &limits, &scratch), STATUS_OK);
    assert_int_equal(dataset_read_size(&size, files, i, &limits, &scratch), STATUS_OK);
    assert_true(size.height == wanted.height && size.width == wanted.width);
    assert_memory_equal(got.pixels, wanted.pixels, (size_t)(got.height * got.width * 3));
    image_deinit(&got);
  }
  assert_int_equal(dataset_read_size(&size, files, 1, &limits, &scratch), STATUS_NO_INPUT);
  assert_non_null(strstr(status_message(), "nowhere.png"));
  image_deinit(&wanted);
  bytes_deinit(&scratch);
  memory_free(path);
  memory_free(name);
  dataset_close(files);
  dataset_close(folder);
}

// --- packed files --------------------------------------------------------------------------------

static const char *pack(const Fixture *fixture, PackDesc desc, int64_t bad) {
  static char path[FIXTURE_PATH];
  FIXTURE_PRINT(path, "%s.packed", fixture->dir);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  desc.limits = sample_limits_default();
  desc.threads = 2;
  if (bad) desc.max_bad_fraction = 0.5;
  PackResult result;
  Status status = packed_write(&result, path, dataset, &desc, NULL);
  if (status != STATUS_OK) print_error("%s\n", status_message());
  assert_int_equal(status, STATUS_OK);
  assert_int_equal(result.bad, bad);
  assert_int_equal(result.packed, dataset_sample_count(dataset) - bad);
  dataset_close(dataset);
  return path;
}

static void packed_files_give_the_same_pixels(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 3, 3);
  fixture_image(fixture, "class1/wide.png", 4, 7, 31);
  fixture_file(fixture, "class1/wreck.jpg", "\xff\xd8\xff", 3);
  Dataset *folder = open_dataset(fixture, (DatasetDesc){0}), *packed;
  SampleLimits limits = sample_limits_default();
  const struct {
    PackDesc desc;
    SampleTarget target; // a packed size is resized no further
  } rows[] = {{{.encoded = true}, {9, 9, {0}}}, {{0}, {9, 9, {0}}}, {{.size = 16}, {16, 16, {0}}}};
  Bytes scratch = {0};
  for (size_t r = 0; r < 3; r++) {
    const char *path = pack(fixture, rows[r].desc, 1);
    assert_int_equal(dataset_open(&packed, &(DatasetDesc){.path = path}, NULL), STATUS_OK);
    assert_true(dataset_is_packed(packed));
    assert_int_equal(dataset_class_count(packed), 3);
    assert_string_equal(dataset_class_name(packed, 2), "class2");
    assert_int_equal(dataset_class_size(packed, 1), 4);
    uint8_t wanted[16 * 16 * 3], got[16 * 16 * 3];
    for (int64_t i = 0, k = 0; i < dataset_sample_count(packed); i++, k++) {
      char *a, *b;
      if (k == 7) k++; // the wreck
      assert_int_equal(dataset_copy_name(&a, folder, k), STATUS_OK);
      assert_int_equal(dataset_copy_name(&b, packed, i), STATUS_OK);
      assert_string_equal(a, b);
      memory_free(a);
      memory_free(b);
      assert_int_equal(dataset_label(folder, k), dataset_label(packed, i));
      size_t size = (size_t)(rows[r].target.height * rows[r].target.width * 3);
      assert_int_equal(dataset_read_pixels(wanted, folder, k, &rows[r].target, &limits, &scratch),
                       STATUS_OK);
      assert_int_equal(dataset_read_pixels(got, packed, i, &rows[r].target, &limits, &scratch),
                       STATUS_OK);
      assert_memory_equal(wanted, got, size);
    }
    Bytes block = {0}; // the others get path and checksum only
    Dataset *copy;
    assert_int_equal(dataset_write_index(&block, packed), STATUS_OK);
    assert_true(block.size < 256);
    assert_int_equal(dataset_read_index(&copy, block.data, block.size), STATUS_OK);
    assert_int_equal(dataset_fingerprint(copy), dataset_fingerprint(packed));
    dataset_close(copy);
    bytes_deinit(&block);
    dataset_close(packed);
    assert_int_equal(unlink(path), 0);
  }
  bytes_deinit(&scratch);
  dataset_close(folder);
}

static void packing_refuses_too_many_bad_images(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  fixture_file(fixture, "class1/wreck.jpg", "\xff\xd8\xff", 3);
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  for (int64_t size = 0; size <= 8; size += 8)
    for (int encoded = 0; encoded <= (size == 0); encoded++) {
      PackDesc desc = {
          .size = size, .encoded = encoded, .limits = sample_limits_default(), .threads = 1};
      PackResult result;
      char path[FIXTURE_PATH];
      FIXTURE_PRINT(path, "%s/out.packed", fixture->dir);
      assert_int_equal(packed_write(&result, path, dataset, &desc, NULL), STATUS_DATA);
      assert_int_equal(access(path, F_OK), -1);
    }
  dataset_close(dataset);
}

// Reads all of a packed file that may be damaged. Returns whether every image could be read.
static bool read_all(const char *path) {
  Dataset *dataset;
  Status status = dataset_open(&dataset, &(DatasetDesc){.path = path}, NULL);
  if (status != STATUS_OK) {
    assert_int_equal(status, STATUS_DATA);
    return false;
  }
  bool good = true;
  SampleLimits limits = sample_limits_default();
  Bytes scratch = {0};
  for (int64_t i = 0; i < dataset_sample_count(dataset); i++) {
    uint8_t pixels[8 * 8 * 3];
    status = dataset_read_pixels(pixels, dataset, i, &(SampleTarget){8, 8, {0}}, &limits, &scratch);
    if (status != STATUS_OK) assert_int_equal(status, STATUS_DATA);
    good &= status == STATUS_OK;
  }
  bytes_deinit(&scratch);
  dataset_close(dataset);
  return good;
}

static void damaged_packed_files_are_found(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  for (int encoded = 0; encoded < 2; encoded++) {
    const char *path = pack(fixture, (PackDesc){.encoded = encoded}, 0);
    assert_true(read_all(path));
    Bytes file = {0};
    assert_int_equal(file_read(&file, path, 1 << 20), STATUS_OK);
    PackedHeader header;
    memcpy(&header, file.data, sizeof header);
    size_t index_end = header.records_offset + header.sample_count * sizeof(PackedRecord);
    int fd = open(path, O_RDWR);
    for (size_t i = 0; i < file.size; i++) { // a flipped bit anywhere that matters is noticed
      bool index = i < index_end;
      bool data = i >= header.data_offset;
      if (!index && !data) continue;
      uint8_t wrong = (uint8_t)(file.data[i] ^ (1u << (i % 8)));
      assert_int_equal(pwrite(fd, &wrong, 1, (off_t)i), 1);
      bool good = read_all(path);
      if (index) assert_false(good);
      assert_int_equal(pwrite(fd, &file.data[i], 1, (off_t)i), 1);
    }
    for (off_t size = 0; size < (off_t)file.size; size += 97) { // cut off
      assert_int_equal(ftruncate(fd, size), 0);
      assert_false(read_all(path));
      assert_int_equal(pwrite(fd, file.data, file.size, 0), (ssize_t)file.size);
    }
    (void)close(fd);
    bytes_deinit(&file);
    assert_int_equal(unlink(path), 0);
  }
}

// Cut off while it is mapped: an error, not a SIGBUS.
static void shrinking_packed_file_is_survived(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  const char *path = pack(fixture, (PackDesc){0}, 0);
  Dataset *dataset;
  assert_int_equal(dataset_open(&dataset, &(DatasetDesc){.path = path}, NULL), STATUS_OK);
  assert_int_equal(truncate(path, 4096), 0);
  SampleLimits limits = sample_limits_default();
  uint8_t pixels[12 * 12 * 3];
  Bytes scratch = {0};
  assert_int_equal(
      dataset_read_pixels(pixels, dataset, 0, &(SampleTarget){12, 12, {0}}, &limits, &scratch),
      STATUS_DATA);
  bytes_deinit(&scratch);
  dataset_close(dataset);
  assert_int_equal(unlink(path), 0);
}

// Makes both checksums right again. The index lies where the good header says.
static void seal(uint8_t *file, const PackedHeader *good) {
  PackedHeader *header = (PackedHeader *)(void *)file;
  uint64_t records = header->sample_count <= good->sample_count ? header->sample_count : 0;
  uint64_t end = header->records_offset + records * sizeof(PackedRecord);
  if (end < sizeof *header || end > good->data_offset)
    end = good->records_offset + good->sample_count * sizeof(PackedRecord);
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(file + sizeof *header, end - sizeof *header));
  memcpy(header->index_checksum, sum.digest, sizeof sum.digest);
  XXH128_canonicalFromHash(&sum, XXH3_128bits(file, offsetof(PackedHeader, header_checksum)));
  memcpy(header->header_checksum, sum.digest, sizeof sum.digest);
}

// A hostile file has right checksums: they are recomputed here after each change.
static void hostile_packed_files_are_refused(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, 2, 2);
  const char *path = pack(fixture, (PackDesc){0}, 0);
  Bytes file = {0};
  assert_int_equal(file_read(&file, path, 1 << 20), STATUS_OK);
  PackedHeader *header = (PackedHeader *)(void *)file.data;
  PackedRecord *record = (PackedRecord *)(void *)(file.data + header->records_offset);
  uint64_t *classes = (uint64_t *)(void *)(file.data + header->classes_offset);
  uint64_t *const places[] = {
      &header->class_count, &header->sample_count, &header->classes_offset,
      &header->text_offset, &header->text_size,    &header->records_offset,
      &header->data_offset, &record->offset,       &record->size,
      &record->name,        &classes[1],
  };
  static const uint64_t values[] = {
      0, 1, 7, 1 << 30, INT64_MAX, UINT64_MAX, 128 + 8, UINT64_MAX - 63, UINT64_MAX / 64 + 2};
  PackedHeader good_header = *header;
  for (size_t p = 0; p < sizeof places / sizeof *places; p++)
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
      uint64_t was = *places[p];
      *places[p] = values[v];
      seal(file.data, &good_header);
      int fd = open(path, O_WRONLY);
      assert_int_equal(pwrite(fd, file.data, file.size, 0), (ssize_t)file.size);
      (void)close(fd);
      (void)read_all(path); // refused, or read without leaving the file: ASan watches
      *places[p] = was;
    }
  uint32_t *const small[] = {&record->height, &record->width, &record->label, &header->kind};
  for (size_t p = 0; p < sizeof small / sizeof *small; p++) {
    *small[p] += 1u << 20;
    seal(file.data, &good_header);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, file.data, file.size, 0), (ssize_t)file.size);
    (void)close(fd);
    assert_false(read_all(path));
    *small[p] -= 1u << 20;
  }
  bytes_deinit(&file);
  assert_int_equal(unlink(path), 0);
}

// --- size and speed ------------------------------------------------------------------------------

// 2,000 empty files in 4 folders; the facts ask for at most 150 bytes a file.
static void large_folders_are_compact(void **state) {
  Fixture *fixture = *state;
  enum { CLASSES = 4, EACH = 500 };
  char name[64];
  for (int c = 0; c < CLASSES; c++)
    for (int i = 0; i < EACH; i++) {
      FIXTURE_PRINT(name, "n%08d/ILSVRC2012_val_%08d.JPEG", c, i * 7919 % EACH);
      if (i == 0)
        fixture_file(fixture, name, "", 0);
      else
        (void)close(open(fixture_path(fixture, name), O_WRONLY | O_CREAT, 0666));
    }
  Dataset *dataset = open_dataset(fixture, (DatasetDesc){0});
  assert_int_equal(dataset_sample_count(dataset), CLASSES * EACH);
  Bytes block = {0};
  assert_int_equal(dataset_write_index(&block, dataset), STATUS_OK);
  assert_true(block.size < 100 * CLASSES * EACH); // in memory at most half more
  bytes_deinit(&block);
  dataset_close(dataset);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(folders_are_listed_as_keras_lists_them),
      TEST(class_names_choose_and_order),
      TEST(unusable_folders_are_named),
      TEST(unreadable_folder_is_named),
      TEST(hostile_entries_are_left_out),
      TEST(links_are_followed_where_asked),
      TEST(deep_folders_end_with_a_message),
      TEST(index_travels),
      TEST(fingerprint_sees_names_and_labels),
      TEST(pixels_come_as_they_are),
      TEST(files_are_taken_as_listed),
      TEST(packed_files_give_the_same_pixels),
      TEST(packing_refuses_too_many_bad_images),
      TEST(damaged_packed_files_are_found),
      TEST(shrinking_packed_file_is_survived),
      TEST(hostile_packed_files_are_refused),
      TEST(large_folders_are_compact),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
