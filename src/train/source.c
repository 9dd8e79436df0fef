// Where batches come from. See source.h.
#include "train/source.h"

Status source_open(Source *out, const LoaderDesc *desc, Features *features) {
  *out = (Source){.features = features, .step = desc->first_step};
  return features ? STATUS_OK : loader_open(&out->loader, desc);
}

void source_open_resident(Source *out, Resident *resident, int64_t first_step) {
  *out = (Source){.resident = resident, .step = first_step};
}

void source_close(Source *source) {
  loader_close(source->loader);
  *source = (Source){0};
}

Status source_next(Source *source, const Batch **out) {
  if (source->features) return features_read(source->features, out, source->step++);
  if (source->resident) return resident_read(source->resident, out, source->step++);
  return loader_next(source->loader, out);
}

void source_release(Source *source, const Batch *batch) {
  if (source->loader) loader_release(source->loader, batch);
}

bool source_has_bad_files(const Source *source) {
  return source->loader && loader_bad_count(source->loader) > source->bad_told;
}

Status source_collect_bad_files(Source *source, BadFiles *bad, const Dataset *dataset) {
  return bad_files_collect(bad, source->loader, dataset, &source->bad_told);
}

Status source_leave_bad_files(Source *source, BadFiles *bad, const Dataset *dataset, Status why) {
  return bad_files_leave(bad, source->loader, dataset, &source->bad_told, why);
}

double source_wait_seconds(const Source *source) {
  return source->loader ? loader_wait_seconds(source->loader) : 0.0;
}
