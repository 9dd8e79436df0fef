// Which labelled images there are, and how to get the pixels of one. A dataset comes from a folder
// with one folder per class, in the order of Keras' image_dataset_from_directory, or from a file of
// `imgcls data pack`; nobody who uses it needs to know which.
//
// With many ranks one of them opens it, dataset_write_index makes one block of bytes of what it
// found, and the others build theirs from that with dataset_read_index, without listing folders.
// A Dataset never changes after it is opened; many threads may use it at once.
#ifndef IMGCLS_DATA_DATASET_H
#define IMGCLS_DATA_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"
#include "io/file.h"
#include "io/image.h"
#include "io/resize.h"

typedef struct Dataset Dataset;

typedef struct DatasetDesc {
  const char *path;               // a folder, or a packed file
  const char *const *class_names; // the classes to take, in label order; NULL: all folders, sorted
  int64_t class_count;            // of class_names
  bool follow_symlinks;           // below `path`; without it links are left out, with a warning
  int64_t min_classes;            // fewer is an error; 0 counts as 2
} DatasetDesc;

// Opens a folder or a packed file. Warns of what is odd (empty classes, links and pipes left out).
// STATUS_NO_INPUT where nothing is there or no image is found, STATUS_PERMISSION for an unreadable
// folder, STATUS_DATA for a damaged packed file, STATUS_CONFIG for class names that do not fit or
// too few classes. Does not open the images.
MUST_CHECK Status dataset_open(Dataset **out, const DatasetDesc *desc, Log *log);

void dataset_close(Dataset *dataset);

// Appends to `out` everything that another process needs to build the same dataset. For a packed
// file that is its path and checksum only.
MUST_CHECK Status dataset_write_index(Bytes *out, const Dataset *dataset);

// The reverse. STATUS_DATA for a block that dataset_write_index did not write, and where the packed
// file that this process sees is another one.
MUST_CHECK Status dataset_read_index(Dataset **out, const uint8_t *bytes, size_t size_bytes);

int64_t dataset_class_count(const Dataset *dataset);
const char *dataset_class_name(const Dataset *dataset, int64_t label); // owned by the dataset
int64_t dataset_class_size(const Dataset *dataset, int64_t label);     // samples in this class
int64_t dataset_sample_count(const Dataset *dataset);                  // of all classes
int32_t dataset_label(const Dataset *dataset, int64_t sample);
const char *dataset_source(const Dataset *dataset); // the folder or file
bool dataset_is_packed(const Dataset *dataset);

// The path of a sample under the dataset's folder ("roses/a b.jpg"), owned by the caller. A packed
// file remembers the names that its images had.
MUST_CHECK Status dataset_copy_name(char **out, const Dataset *dataset, int64_t sample);

// A dataset of files anywhere, in the order given, all of one class without a name and label 0: for
// predictions. Does not open them. `paths` are copied.
MUST_CHECK Status dataset_open_files(Dataset **out, const char *const *paths, int64_t count);

// A number that changes when names, labels or (for a packed file) pixels change. A checkpoint keeps
// it, so that a run is not resumed on other data unnoticed.
uint64_t dataset_fingerprint(const Dataset *dataset);

// What one sample may ask for.
typedef struct SampleLimits {
  ImageLimits image;
  size_t max_file_bytes;
} SampleLimits;

SampleLimits sample_limits_default(void); // image_limits_default, 256 MiB

// What every sample is brought to.
typedef struct SampleTarget {
  int64_t height, width;
  ResizeOptions resize;
} SampleTarget;

// Fills `out`, height x width x 3 bytes, with the sample brought to that size. `scratch` holds the
// file's bytes and may be reused from call to call. STATUS_DATA for a bad image, STATUS_NO_INPUT,
// STATUS_PERMISSION or STATUS_IO where the file cannot be read, STATUS_OS without memory.
MUST_CHECK Status dataset_read_pixels(uint8_t *out, const Dataset *dataset, int64_t sample,
                                      const SampleTarget *target, const SampleLimits *limits,
                                      Bytes *scratch);

// The bytes of the sample's file, over what `out` held. They are looked at only far enough to know
// that they begin as an image within the limits. STATUS_USAGE where a packed file has pixels only.
MUST_CHECK Status dataset_read_encoded(Bytes *out, const Dataset *dataset, int64_t sample,
                                       const SampleLimits *limits);

// The image's own size, from its head; the rest of the file is not looked at.
MUST_CHECK Status dataset_read_size(ImageSize *out, const Dataset *dataset, int64_t sample,
                                    const SampleLimits *limits, Bytes *scratch);

// The pixels at the image's own size. `*out` owns its pixels; image_deinit frees them.
MUST_CHECK Status dataset_read_image(Image *out, const Dataset *dataset, int64_t sample,
                                     const SampleLimits *limits, Bytes *scratch);

#endif
