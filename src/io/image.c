// Choice of the decoder by content, and what all decoders share. See image.h.
#include "io/image.h"

#include <assert.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/memory.h"
#include "io/image_codec.h"

static const ImageCodec *const codecs[IMAGE_FORMAT_COUNT] = {
    [IMAGE_JPEG] = &image__jpeg,
    [IMAGE_PNG] = &image__png,
    [IMAGE_GIF] = &image__gif,
    [IMAGE_BMP] = &image__bmp,
};

ImageLimits image_limits_default(void) {
  return (ImageLimits){.max_pixels = 178956970, // where Pillow refuses
                       .max_side = 65500,       // the most that JPEG can say
                       .jpeg_memory_bytes = (size_t)256 << 20,
                       .jpeg_scans = 100,
                       .decode_seconds = 10};
}

bool image_has_name(const char *name) {
  static const char *const endings[] = {".bmp", ".gif", ".jpeg", ".jpg", ".png"};
  size_t length = strlen(name);
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t size = strlen(endings[i]);
    if (length >= size && strcasecmp(name + length - size, endings[i]) == 0) return true;
  }
  return false;
}

void image_deinit(Image *image) {
  memory_free(image->pixels);
  *image = (Image){0};
}

Status image__damaged(const ImageSource *source, const ImageCodec *codec, const char *reason) {
  return status_set(STATUS_DATA, "%s: damaged %s: %s; replace or remove the file", source->path,
                    codec->name, reason);
}

// The processor time of this thread: unlike the wall clock, no slower on a busy or stopped machine.
static double thread_seconds(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return 0;
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool image__is_late(const ImageSource *source) {
  return thread_seconds() > source->deadline_s;
}

Status image__late(const ImageSource *source) {
  return status_set(STATUS_DATA,
                    "%s: decoding takes more than %g s of processor time; raise [data] "
                    "decode_deadline_s or remove the file",
                    source->path, source->limits->decode_seconds);
}

Status image__check_size(const ImageSource *source, int64_t height, int64_t width) {
  const ImageLimits *limits = source->limits;
  if (height < 1 || width < 1)
    return status_set(STATUS_DATA, "%s: an image of %lld x %lld pixels; replace or remove the file",
                      source->path, (long long)width, (long long)height);
  if (height > limits->max_side || width > limits->max_side)
    return status_set(STATUS_DATA,
                      "%s: %lld x %lld pixels: a side is longer than max_side = %lld; shrink the "
                      "image or raise the limit",
                      source->path, (long long)width, (long long)height,
                      (long long)limits->max_side);
  if (height > limits->max_pixels / width)
    return status_set(STATUS_DATA,
                      "%s: %lld x %lld pixels: more than max_pixels = %lld; shrink the image or "
                      "raise the limit",
                      source->path, (long long)width, (long long)height,
                      (long long)limits->max_pixels);
  return STATUS_OK;
}

Status image__alloc(Image *out, const ImageSource *source, int64_t height, int64_t width) {
  TRY(image__check_size(source, height, width));
  TRY(memory_alloc(&out->pixels, (size_t)height * (size_t)width, 3));
  out->height = height;
  out->width = width;
  return STATUS_OK;
}

// What people put in image folders without noticing, so that the message can name it.
static const char *foreign_format(const ImageSource *source) {
  static const struct {
    size_t offset, size;
    const char *bytes, *name;
  } known[] = {
      {8, 4, "WEBP", "WebP"},          {4, 8, "ftypavif", "AVIF"}, {4, 8, "ftypheic", "HEIC"},
      {0, 4, "II*\0", "TIFF"},         {0, 4, "MM\0*", "TIFF"},    {0, 4, "%PDF", "PDF"},
      {0, 5, "<?xml", "XML or SVG"},   {0, 4, "<svg", "SVG"},      {0, 5, "<!DOC", "an HTML page"},
      {0, 5, "<html", "an HTML page"},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (source->size_bytes >= known[i].offset + known[i].size &&
        memcmp(source->bytes + known[i].offset, known[i].bytes, known[i].size) == 0)
      return known[i].name;
  return NULL;
}

static Status find_format(ImageFormat *out, const ImageSource *source) {
  if (source->size_bytes == 0)
    return status_set(STATUS_DATA, "%s: empty file; replace or remove it", source->path);
  for (int format = 0; format < IMAGE_FORMAT_COUNT; format++) {
    const ImageCodec *codec = codecs[format];
    if (source->size_bytes < codec->magic_size) continue;
    if (memcmp(source->bytes, codec->magic, codec->magic_size) != 0) continue;
    *out = (ImageFormat)format;
    return STATUS_OK;
  }
  const char *foreign = foreign_format(source);
  return status_set(STATUS_DATA,
                    "%s: %s%sthe content is not JPEG, PNG, GIF or BMP; convert or remove the file",
                    source->path, foreign ? foreign : "", foreign ? ": " : "");
}

static ImageSource source_of(const uint8_t *bytes, size_t size_bytes, const ImageLimits *limits,
                             const char *path) {
  return (ImageSource){bytes, size_bytes, limits, path, thread_seconds() + limits->decode_seconds};
}

Status image_read_size(ImageSize *out, const uint8_t *bytes, size_t size_bytes,
                       const ImageLimits *limits, const char *path) {
  assert(limits && path);
  ImageSource source = source_of(bytes, size_bytes, limits, path);
  *out = (ImageSize){0};
  TRY(find_format(&out->format, &source));
  TRY(codecs[out->format]->read_size(out, &source));
  return image__check_size(&source, out->height, out->width);
}

Status image_decode(Image *out, const uint8_t *bytes, size_t size_bytes, const ImageLimits *limits,
                    const char *path) {
  assert(limits && path);
  ImageSource source = source_of(bytes, size_bytes, limits, path);
  *out = (Image){0};
  ImageFormat format = IMAGE_JPEG;
  TRY(find_format(&format, &source));
  Status status = codecs[format]->decode(out, &source);
  if (status != STATUS_OK) image_deinit(out);
  return status;
}
