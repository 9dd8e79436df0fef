// Writing packed files, for `imgcls data pack`. See packed.h, packed_format.h, docs/data-format.md.
//
// The index is as large as the samples' names make it, so it is known before the first image is
// read: its room is left at the front, the data follow, and the index is written into its room
// last.
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/dataset_internal.h"
#include "data/loader.h"
#include "data/packed.h"
#include "data/packed_format.h"

static const uint64_t PAGE = 4096;
static const double PROGRESS_SECONDS = 0.5;

typedef struct PackJob {
  const Dataset *dataset;
  const PackDesc *desc;
  Log *log;
  FileWriter file;
  uint8_t *index; // all bytes before the data; owned
  PackedHeader *header;
  PackedRecord *records;
  int64_t bad, bad_allowed;
  double told_s; // when progress was last shown
} PackJob;

static uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

static void store_checksum(uint8_t out[16], const void *data, size_t size) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
  memcpy(out, canonical.digest, sizeof canonical.digest);
}

// --- the index -----------------------------------------------------------------------------------

// The names of all samples, as records will have them. Offsets of `names` start at 0.
static Status collect_names(Texts *texts, uint64_t *names, const Dataset *d) {
  for (int64_t i = 0; i < dataset_class_count(d); i++)
    TRY(data__texts_add(texts, dataset_class_name(d, i), &names[i]));
  for (int64_t i = 0; i < dataset_sample_count(d); i++) {
    char *name;
    TRY(dataset_copy_name(&name, d, i));
    Status status = data__texts_add(texts, name, &names[dataset_class_count(d) + i]);
    memory_free(name);
    TRY(status);
  }
  return STATUS_OK;
}

static Status lay_out_index(PackJob *job, const Texts *texts, const uint64_t *names) {
  const Dataset *d = job->dataset;
  uint64_t classes = (uint64_t)dataset_class_count(d), samples = (uint64_t)dataset_sample_count(d);
  PackedHeader header = {.version = PACKED_VERSION,
                         .byte_order = PACKED_BYTE_ORDER,
                         .class_count = classes,
                         .kind = job->desc->encoded ? PACKED_KIND_ENCODED : PACKED_KIND_PIXELS,
                         .classes_offset = sizeof header,
                         .text_offset = sizeof header + classes * sizeof *names,
                         .text_size = texts->size};
  memcpy(header.magic, PACKED_MAGIC, sizeof header.magic);
  header.records_offset = align_up(header.text_offset + texts->size, 8);
  header.data_offset = align_up(header.records_offset + samples * sizeof *job->records, PAGE);
  TRY(memory_alloc(&job->index, header.data_offset, 1));
  memcpy(job->index, &header, sizeof header);
  memcpy(job->index + header.text_offset, texts->data, texts->size);
  memcpy(job->index + header.classes_offset, names, classes * sizeof *names);
  job->header = (PackedHeader *)(void *)job->index;
  job->records = (PackedRecord *)(void *)(job->index + header.records_offset);
  return STATUS_OK;
}

static Status make_index(PackJob *job, uint64_t **names) {
  const Dataset *d = job->dataset;
  Texts texts = {0};
  Status status;
  *names = NULL;
  GUARD(memory_alloc(names, (size_t)(dataset_class_count(d) + dataset_sample_count(d)),
                     sizeof **names));
  GUARD(collect_names(&texts, *names, d));
  GUARD(lay_out_index(job, &texts, *names));
out:
  memory_free(texts.data);
  return status;
}

// --- the data ------------------------------------------------------------------------------------

typedef struct PackedData {
  const void *data;
  size_t size;
  int64_t height, width;
} PackedData;

static Status append(PackJob *job, int64_t sample, const uint64_t *names, const PackedData *data) {
  static const uint8_t zeros[PACKED_DATA_ALIGNMENT];
  uint64_t offset = align_up(job->file.offset, PACKED_DATA_ALIGNMENT);
  TRY(file_writer_append(&job->file, zeros, (size_t)(offset - job->file.offset)));
  PackedRecord *record = &job->records[job->header->sample_count++];
  *record = (PackedRecord){
      .offset = offset,
      .size = data->size,
      .name = names[dataset_class_count(job->dataset) + sample],
      .height = (uint32_t)data->height,
      .width = (uint32_t)data->width,
      .label = (uint32_t)dataset_label(job->dataset, sample),
  };
  store_checksum(record->checksum, data->data, data->size);
  TRY(file_writer_append(&job->file, data->data, data->size));
  if (clock_now_s() - job->told_s > PROGRESS_SECONDS) {
    job->told_s = clock_now_s();
    log_progress(job->log, "packed %" PRIu64 " of %" PRId64 " images", job->header->sample_count,
                 dataset_sample_count(job->dataset));
  }
  return STATUS_OK;
}

// Leaves a bad image out, where that is still allowed. `status` is what reading it gave.
static Status leave_out(PackJob *job, Status status) {
  if (status != STATUS_DATA && status != STATUS_NO_INPUT && status != STATUS_PERMISSION &&
      status != STATUS_IO)
    return status;
  char shown[1024];
  log_warning(job->log, "left out: %s", data__printable(shown, sizeof shown, status_message()));
  if (++job->bad <= job->bad_allowed) return STATUS_OK;
  return status_set(STATUS_DATA,
                    "%s: %" PRId64 " bad images, more than the %" PRId64
                    " allowed; remove them, or raise --max-bad",
                    dataset_source(job->dataset), job->bad, job->bad_allowed);
}

// Each image as it is in its file, once its header has been looked at.
static Status append_encoded(PackJob *job, const uint64_t *names) {
  Bytes bytes = {0};
  Status status = STATUS_OK;
  for (int64_t i = 0; i < dataset_sample_count(job->dataset); i++) {
    status = dataset_read_encoded(&bytes, job->dataset, i, &job->desc->limits);
    if (status == STATUS_OK)
      GUARD(append(job, i, names, &(PackedData){.data = bytes.data, .size = bytes.size}));
    else
      GUARD(leave_out(job, status));
  }
out:
  bytes_deinit(&bytes);
  return status;
}

static Status append_own_size(PackJob *job, const uint64_t *names) {
  Bytes scratch = {0};
  Status status = STATUS_OK;
  for (int64_t i = 0; i < dataset_sample_count(job->dataset); i++) {
    Image image;
    status = dataset_read_image(&image, job->dataset, i, &job->desc->limits, &scratch);
    if (status != STATUS_OK) {
      GUARD(leave_out(job, status));
      continue;
    }
    PackedData data = {image.pixels, (size_t)image.height * (size_t)image.width * 3, image.height,
                       image.width};
    status = append(job, i, names, &data);
    image_deinit(&image);
    if (status != STATUS_OK) goto out;
  }
out:
  bytes_deinit(&scratch);
  return status;
}

// Through a loader, whose threads decode and resize ahead.
static Status append_fixed_size(PackJob *job, const uint64_t *names) {
  enum { BATCH = 64, DEPTH = 4 };
  const PackDesc *desc = job->desc;
  int64_t count = dataset_sample_count(job->dataset), size = desc->size;
  Loader *loader = NULL;
  Status status;
  LoaderDesc loading = {
      .dataset = job->dataset,
      .sample_count = count,
      .target = {.height = size, .width = size, .resize = desc->resize},
      .limits = desc->limits,
      .threads = desc->threads,
      .depth = DEPTH,
      .bad_files = LOADER_BAD_MARK,
      .max_bad_fraction = desc->max_bad_fraction,
      .log = job->log,
  };
  GUARD(sampler_init(&loading.sampler, &(SamplerDesc){SAMPLER_EVALUATE, count, BATCH, 0}));
  loading.end_step = sampler_steps_per_epoch(&loading.sampler);
  GUARD(loader_open(&loader, &loading));
  for (;;) {
    const Batch *batch;
    GUARD(loader_next(loader, &batch));
    if (!batch) break;
    size_t bytes = (size_t)(size * size * 3);
    for (int64_t i = 0; i < batch->count; i++) {
      PackedData data = {batch->pixels + (size_t)i * bytes, bytes, size, size};
      if (batch->labels[i] >= 0)
        GUARD(append(job, batch->samples[i], names, &data));
      else
        job->bad++;
    }
    loader_release(loader, batch);
  }
out:
  loader_close(loader);
  return status;
}

// --- all of it -----------------------------------------------------------------------------------

static Status seal(PackJob *job) {
  PackedHeader *h = job->header;
  if (h->sample_count == 0)
    return status_set(STATUS_DATA, "%s: no good image to pack", dataset_source(job->dataset));
  h->file_size = job->file.offset;
  uint64_t end = h->records_offset + h->sample_count * sizeof *job->records;
  store_checksum(h->index_checksum, job->index + sizeof *h, (size_t)(end - sizeof *h));
  store_checksum(h->header_checksum, h, offsetof(PackedHeader, header_checksum));
  return file_writer_rewrite(&job->file, 0, job->index, (size_t)h->data_offset);
}

Status packed_write(PackResult *out, const char *path, const Dataset *dataset, const PackDesc *desc,
                    Log *log) {
  *out = (PackResult){0};
  PackJob job = {.dataset = dataset, .desc = desc, .log = log, .file = {.fd = -1}};
  job.bad_allowed = (int64_t)ceil(desc->max_bad_fraction * (double)dataset_sample_count(dataset));
  uint64_t *names = NULL;
  bool open = false;
  Status status;
  GUARD(make_index(&job, &names));
  GUARD(file_writer_open(&job.file, path, 0));
  open = true;
  GUARD(file_writer_append(&job.file, job.index, (size_t)job.header->data_offset));
  GUARD(desc->encoded    ? append_encoded(&job, names)
        : desc->size > 0 ? append_fixed_size(&job, names)
                         : append_own_size(&job, names));
  GUARD(seal(&job));
  *out = (PackResult){(int64_t)job.header->sample_count, job.bad, job.file.offset};
  open = false;
  GUARD(file_writer_commit(&job.file, true));
out:
  if (open) file_writer_abort(&job.file);
  memory_free(names);
  memory_free(job.index);
  return status;
}
