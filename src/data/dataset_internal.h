// What a Dataset is made of. For the files of src/data that build one.
#ifndef IMGCLS_DATA_DATASET_INTERNAL_H
#define IMGCLS_DATA_DATASET_INTERNAL_H

#include "data/dataset.h"
#include "data/packed.h"

// Strings, each ended by a NUL, named by their offset. Starts zeroed.
typedef struct Texts {
  char *data; // owned
  size_t size, capacity;
} Texts;

typedef struct DatasetClass {
  uint64_t name; // in texts
  int64_t size;  // samples
} DatasetClass;

// A folder that holds images: a class folder or one below it.
typedef struct DatasetFolder {
  uint64_t path; // in texts, below the dataset's folder: "roses", "roses/wild"
  int32_t label;
  int32_t reserved; // 0
} DatasetFolder;

// About 12 bytes and the file's name for each sample.
struct Dataset {
  char *source;          // owned
  Texts texts;           // class, folder and file names
  DatasetClass *classes; // class_count
  DatasetFolder *folders;
  uint64_t *names;     // of each sample: its file's name in texts; NULL when packed
  uint32_t *folder_of; // of each sample; NULL when packed
  int64_t class_count, folder_count, sample_count;
  Packed *packed; // NULL for a folder; owned
  bool is_list;   // of files: `names` are whole paths
};

MUST_CHECK Status data__texts_add(Texts *texts, const char *text, uint64_t *offset);

// Whether a class may have this name: UTF-8 without control characters, since it goes into JSON,
// CSV and HDF5. STATUS_CONFIG names it and its place.
MUST_CHECK Status data__check_class_name(const char *name, const char *place);

// Fills a zeroed dataset, whose source is set, from its folder.
MUST_CHECK Status data__scan_folder(Dataset *dataset, const DatasetDesc *desc, Log *log);

// Fills a zeroed dataset, whose source is set, from its packed file.
MUST_CHECK Status data__open_packed(Dataset *dataset, const DatasetDesc *desc);

// Copies a name for messages, with '?' for control characters. Returns text.
const char *data__printable(char *text, size_t capacity, const char *name);

#endif
