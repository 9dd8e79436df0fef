// PNG through libspng. Called by image.c.
//
// RGB8 of libspng is what tf.io.decode_image(channels=3) gives: palettes and grey widened, alpha
// and transparency dropped, the high byte of 16 bits, no gamma. Chunks that are not the picture
// (text, colour profiles) may be damaged; the picture may not.
#include "io/image_codec.h"

#include <spng.h>

enum { CHUNK_LIMIT = 8 << 20 }; // bytes of one text or profile chunk, and of all

static Status png_fail(const ImageSource *source, int code) {
  if (code == SPNG_EMEM)
    return status_set(STATUS_OS, "%s: out of memory while decoding", source->path);
  return image__damaged(source, &image__png, spng_strerror(code));
}

static uint32_t read_u32(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

// The size is looked at before libspng does, which calls one that overflows its sums damaged.
static Status open_header(spng_ctx **out, struct spng_ihdr *header, const ImageSource *source) {
  enum { WIDTH_AT = 16, HEIGHT_AT = 20, SIZE_END = 24 };
  if (source->size_bytes >= SIZE_END)
    TRY(image__check_size(source, read_u32(source->bytes + HEIGHT_AT),
                          read_u32(source->bytes + WIDTH_AT)));
  *out = spng_ctx_new(0);
  if (!*out) return png_fail(source, SPNG_EMEM);
  int code = spng_set_crc_action(*out, SPNG_CRC_ERROR, SPNG_CRC_DISCARD);
  if (!code) code = spng_set_chunk_limits(*out, CHUNK_LIMIT, CHUNK_LIMIT);
  if (!code) code = spng_set_png_buffer(*out, source->bytes, source->size_bytes);
  if (!code) code = spng_get_ihdr(*out, header);
  return code ? png_fail(source, code) : STATUS_OK;
}

static Status png_read_size(ImageSize *out, const ImageSource *source) {
  spng_ctx *decoder = NULL;
  struct spng_ihdr header = {0};
  Status status = open_header(&decoder, &header, source);
  spng_ctx_free(decoder);
  out->height = header.height;
  out->width = header.width;
  return status;
}

// All rows, in the order of the file: interlaced ones come in seven passes.
static Status read_rows(Image *out, spng_ctx *decoder, const ImageSource *source) {
  enum { ROWS_UNASKED = 16 };
  size_t row_bytes = (size_t)out->width * 3;
  int code = spng_decode_image(decoder, NULL, 0, SPNG_FMT_RGB8, SPNG_DECODE_PROGRESSIVE);
  for (int64_t count = 0; !code; count++) {
    struct spng_row_info row;
    if (count % ROWS_UNASKED == 0 && image__is_late(source)) return image__late(source);
    code = spng_get_row_info(decoder, &row);
    if (!code) code = spng_decode_row(decoder, out->pixels + row.row_num * row_bytes, row_bytes);
  }
  return code == SPNG_EOI ? STATUS_OK : png_fail(source, code);
}

static Status png_decode(Image *out, const ImageSource *source) {
  spng_ctx *decoder = NULL;
  struct spng_ihdr header;
  Status status;
  GUARD(open_header(&decoder, &header, source));
  GUARD(image__alloc(out, source, header.height, header.width));
  GUARD(read_rows(out, decoder, source));
  int code = spng_decode_chunks(decoder); // to the end: a cut file shows here at the latest
  if (code) status = png_fail(source, code);
out:
  spng_ctx_free(decoder);
  return status;
}

const ImageCodec image__png = {.name = "PNG",
                               .magic = "\x89PNG\r\n\x1a\n",
                               .magic_size = 8,
                               .read_size = png_read_size,
                               .decode = png_decode};
