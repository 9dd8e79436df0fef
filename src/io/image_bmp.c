// BMP through gdk-pixbuf, whose loader is told to take nothing but BMP. Called by image.c.
//
// The size is read from the header here, so that the limits hold before the library takes memory.
// Pixels are TensorFlow's, except that a colour palette is obeyed: tf.io.decode_image takes the
// palette's index for a grey level.
#include "io/image_codec.h"

#include <stdbool.h>

#include <gdk-pixbuf/gdk-pixbuf.h>

enum { BMP_PLAIN = 0, BMP_BIT_FIELDS = 3 }; // values of the compression field

static uint32_t read_u32(const uint8_t *bytes) {
  return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static uint16_t read_u16(const uint8_t *bytes) {
  return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static int64_t read_i32(const uint8_t *bytes) {
  return (int32_t)read_u32(bytes);
}

typedef struct BmpHeader {
  int64_t height, width;
  int64_t palette_end; // offset; of the header's end where there is no palette
  int64_t pixels_at;   // offset of the first row
  int64_t bits;        // of a pixel
  bool compressed;     // rows have no fixed length
} BmpHeader;

static Status read_header(BmpHeader *out, const ImageSource *source) {
  enum { CORE_HEADER = 12, CORE_SIZE = 26, INFO_SIZE = 54 };
  const uint8_t *at = source->bytes;
  bool core = source->size_bytes >= CORE_SIZE && read_u32(at + 14) == CORE_HEADER; // of OS/2
  if (source->size_bytes < (core ? CORE_SIZE : INFO_SIZE))
    return image__damaged(source, &image__bmp, "it ends inside the header");
  uint32_t compression = core ? 0 : read_u32(at + 30);
  *out = (BmpHeader){.width = core ? read_u16(at + 18) : read_i32(at + 18),
                     .height = core ? read_u16(at + 20) : read_i32(at + 22),
                     .palette_end = 14 + (int64_t)read_u32(at + 14),
                     .pixels_at = read_u32(at + 10),
                     .bits = read_u16(at + (core ? 24 : 28)),
                     .compressed = compression != BMP_PLAIN && compression != BMP_BIT_FIELDS};
  if (!core && out->bits <= 8) out->palette_end += 4 * (int64_t)read_u32(at + 46);
  if (out->height < 0) out->height = -out->height; // the top row comes first
  return STATUS_OK;
}

static Status bmp_read_size(ImageSize *out, const ImageSource *source) {
  BmpHeader header = {0};
  TRY(read_header(&header, source));
  out->height = header.height;
  out->width = header.width;
  return STATUS_OK;
}

static void copy_pixels(Image *out, const GdkPixbuf *pixbuf) {
  const uint8_t *from = gdk_pixbuf_read_pixels(pixbuf);
  int64_t stride = gdk_pixbuf_get_rowstride(pixbuf);
  int channels = gdk_pixbuf_get_n_channels(pixbuf); // 3, or 4 with alpha
  uint8_t *to = out->pixels;
  for (int64_t y = 0; y < out->height; y++)
    for (int64_t x = 0; x < out->width; x++, to += 3)
      for (int c = 0; c < 3; c++) to[c] = from[y * stride + x * channels + c];
}

// False with `*error`, or where it takes too long.
static bool feed(GdkPixbufLoader *loader, GError **error, bool *late, const ImageSource *source) {
  enum { PIECE_BYTES = 1 << 16 };
  size_t done = 0;
  while (done < source->size_bytes) {
    size_t left = source->size_bytes - done, size = left < PIECE_BYTES ? left : PIECE_BYTES;
    *late = image__is_late(source);
    if (*late || !gdk_pixbuf_loader_write(loader, source->bytes + done, size, error)) return false;
    done += size;
  }
  return true;
}

static Status bmp_decode(Image *out, const ImageSource *source) {
  BmpHeader header = {0};
  TRY(read_header(&header, source));
  TRY(image__check_size(source, header.height, header.width));
  // The library takes memory for all that would lie before the pixels, however much.
  if (header.palette_end > (int64_t)source->size_bytes ||
      header.pixels_at > (int64_t)source->size_bytes)
    return image__damaged(source, &image__bmp, "its pixels begin beyond its end");
  // It would show the missing rows as black.
  int64_t row_size = (header.width * header.bits + 31) / 32 * 4;
  if (!header.compressed &&
      header.pixels_at + row_size * header.height > (int64_t)source->size_bytes)
    return image__damaged(source, &image__bmp, "it ends before the last row");
  TRY(image__alloc(out, source, header.height, header.width));
  Status status = STATUS_OK;
  GError *error = NULL;
  GdkPixbufLoader *loader = gdk_pixbuf_loader_new_with_type("bmp", &error);
  if (!loader) {
    status = status_set(STATUS_OS, "%s: gdk-pixbuf cannot read BMP here: %s", source->path,
                        error->message);
    g_error_free(error);
    return status;
  }
  bool late = false, good = feed(loader, &error, &late, source);
  // Closing is due in any case; only the first error is kept.
  good = gdk_pixbuf_loader_close(loader, good ? &error : NULL) && good;
  const GdkPixbuf *pixbuf = good ? gdk_pixbuf_loader_get_pixbuf(loader) : NULL;
  if (pixbuf && gdk_pixbuf_get_width(pixbuf) == out->width &&
      gdk_pixbuf_get_height(pixbuf) == out->height)
    copy_pixels(out, pixbuf);
  else if (late)
    status = image__late(source);
  else
    status = image__damaged(source, &image__bmp, error ? error->message : "it is not complete");
  if (error) g_error_free(error);
  g_object_unref(loader);
  return status;
}

const ImageCodec image__bmp = {.name = "BMP",
                               .magic = "BM",
                               .magic_size = 2,
                               .read_size = bmp_read_size,
                               .decode = bmp_decode};
