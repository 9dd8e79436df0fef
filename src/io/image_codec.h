// What image.c asks of each format's file. Private to the image decoders.
//
// A codec never trusts a size before image__check_size has seen it, takes pixel memory from
// image__alloc alone, and leaves nothing behind when it fails; image.c empties the image then.
#ifndef IMGCLS_IO_IMAGE_CODEC_H
#define IMGCLS_IO_IMAGE_CODEC_H

#include "io/image.h"

typedef struct ImageSource {
  const uint8_t *bytes;
  size_t size_bytes;
  const ImageLimits *limits;
  const char *path;  // for messages
  double deadline_s; // of image__is_late
} ImageSource;

typedef struct ImageCodec {
  const char *name;
  const char *magic; // how a file of the format starts
  size_t magic_size;
  Status (*read_size)(ImageSize *out, const ImageSource *source); // sets height and width
  Status (*decode)(Image *out, const ImageSource *source);
} ImageCodec;

extern const ImageCodec image__jpeg, image__png, image__gif, image__bmp;

// STATUS_DATA, naming the limit, unless 1 <= height, width <= max_side and the product is within
// max_pixels.
MUST_CHECK Status image__check_size(const ImageSource *source, int64_t height, int64_t width);

// Checks the size and takes the pixels: zeros, that is black.
MUST_CHECK Status image__alloc(Image *out, const ImageSource *source, int64_t height,
                               int64_t width);

// Whether this thread has worked on the file for longer than the limit. A codec asks between pieces
// of some 10 ms, for the answer costs as much as a few hundred pixels, and ends with image__late.
bool image__is_late(const ImageSource *source);
Status image__late(const ImageSource *source);

// STATUS_DATA with "PATH: damaged FORMAT: reason".
Status image__damaged(const ImageSource *source, const ImageCodec *codec, const char *reason);

#endif
