// Decoded images: always RGB, whatever the file held. Used by the data pipeline and by `imgcls
// data scan` and `imgcls predict`.
//
// The bytes decide the format, never the name. Pixels are those of TensorFlow's
// tf.io.decode_image(channels=3, expand_animations=False), within one level: alpha is dropped, 16
// bits keep their high byte, the first frame of an animation is taken. Where TensorFlow gives a
// guess for a damaged file, these functions fail and say what is wrong; where it takes a BMP's
// palette index for a grey level, they give the palette's colour. Every function may be called by
// many threads at once.
#ifndef IMGCLS_IO_IMAGE_H
#define IMGCLS_IO_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Image {
  int64_t height, width;
  uint8_t *pixels; // height x width x 3, dense; owned by this struct
} Image;

typedef enum ImageFormat {
  IMAGE_JPEG,
  IMAGE_PNG,
  IMAGE_GIF,
  IMAGE_BMP,
  IMAGE_FORMAT_COUNT
} ImageFormat;

// What a file may ask for. A field may be lowered or raised, but not be zero.
typedef struct ImageLimits {
  int64_t max_pixels;       // height x width
  int64_t max_side;         // height or width
  size_t jpeg_memory_bytes; // working memory of the JPEG decoder, beside the pixels
  int jpeg_scans;           // scans of a progressive JPEG
  double decode_seconds;    // of processor time, not of time on the wall: [data] decode_deadline_s
} ImageLimits;

// 178,956,970 pixels, 65,500 a side, 256 MiB of JPEG memory, 100 scans, 10 s.
ImageLimits image_limits_default(void);

// Whether a file's name is that of an image, as Keras chooses: .bmp, .gif, .jpeg, .jpg, .png.
bool image_has_name(const char *name);

// What the header says. Nothing is decoded and no pixel memory is taken.
typedef struct ImageSize {
  ImageFormat format;
  int64_t height, width;
} ImageSize;

// The format and size that `bytes` (the start of a file, or all of it) announce. STATUS_DATA when
// it is no image of a known format, is cut off before its size, or breaks `limits`. `path` is for
// messages only. The size of an animated GIF is that of its screen.
MUST_CHECK Status image_read_size(ImageSize *out, const uint8_t *bytes, size_t size_bytes,
                                  const ImageLimits *limits, const char *path);

// Decodes a whole file in memory. `*out` is filled anew (what it held before is not freed) and owns
// its pixels; it stays empty on failure: STATUS_DATA for a damaged, foreign or too large image,
// STATUS_OS without memory. `path` is for messages only.
MUST_CHECK Status image_decode(Image *out, const uint8_t *bytes, size_t size_bytes,
                               const ImageLimits *limits, const char *path);

// Frees the pixels and empties the struct.
void image_deinit(Image *image);

#endif
