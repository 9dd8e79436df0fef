// JPEG through the libjpeg API of libjpeg-turbo. Called by image.c.
//
// The settings are those of tf.io.decode_image: fast integer DCT, fancy upsampling, CMYK folded to
// RGB with Adobe's inversion. libjpeg reports errors by longjmp: everything it touches lies in one
// JpegReader, and only run() calls setjmp, so no local variable can be clobbered. Warnings that
// mean guessed pixels are errors; the memory, the scans and the processor time are bounded, since
// a progressive file of a few hundred bytes may ask for minutes.
#include "io/image_codec.h"

#include <limits.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>

#include <jpeglib.h>

#include <jerror.h>

typedef struct JpegReader {
  struct jpeg_decompress_struct decoder;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  char reason[JMSG_LENGTH_MAX];
  const ImageSource *source;
  Status limit; // that ended it, with its message set
  uint8_t *pixels; // borrowed from the image
} JpegReader;

static JpegReader *reader_of(j_common_ptr decoder) {
  return decoder->client_data;
}

static _Noreturn void fail(j_common_ptr decoder) {
  JpegReader *reader = reader_of(decoder);
  decoder->err->format_message(decoder, reader->reason);
  longjmp(reader->escape, 1);
}

static _Noreturn void fail_with(JpegReader *reader, const char *reason) {
  (void)snprintf(reader->reason, sizeof reader->reason, "%s", reason);
  longjmp(reader->escape, 1);
}

// Level -1 is a warning. Stray bytes between segments and odd metadata cost no pixel, and public
// datasets are full of them.
static void on_message(j_common_ptr decoder, int level) {
  if (level >= 0) return;
  int code = decoder->err->msg_code;
  if (code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM || code == JWRN_BOGUS_ICC) return;
  fail(decoder);
}

static void on_progress(j_common_ptr decoder) {
  JpegReader *reader = reader_of(decoder);
  const ImageSource *source = reader->source;
  if (reader->decoder.input_scan_number > source->limits->jpeg_scans)
    reader->limit = status_set(STATUS_DATA,
                               "%s: a progressive JPEG of more than %d scans; raise [data] "
                               "jpeg_scans or remove the file",
                               source->path, source->limits->jpeg_scans);
  else if (image__is_late(source))
    reader->limit = image__late(source);
  if (reader->limit != STATUS_OK) longjmp(reader->escape, 1);
}

// Runs a stage; false with `reason` when libjpeg gave up.
static bool run(JpegReader *reader, void (*stage)(JpegReader *)) {
  if (setjmp(reader->escape) != 0) return false;
  stage(reader);
  return true;
}

static void read_header(JpegReader *reader) {
  struct jpeg_decompress_struct *decoder = &reader->decoder;
  decoder->client_data = reader;
  jpeg_create_decompress(decoder);
  decoder->client_data = reader; // creating clears the struct in some versions
  decoder->progress = &reader->progress;
  size_t memory = reader->source->limits->jpeg_memory_bytes;
  decoder->mem->max_memory_to_use = memory < (size_t)LONG_MAX ? (long)memory : LONG_MAX;
  jpeg_mem_src(decoder, reader->source->bytes, reader->source->size_bytes);
  (void)jpeg_read_header(decoder, TRUE);
}

static void fold_cmyk(uint8_t *rgb, const uint8_t *cmyk, size_t width, bool inverted) {
  for (size_t x = 0; x < width; x++) {
    int k = inverted ? cmyk[4 * x + 3] : 255 - cmyk[4 * x + 3];
    for (size_t c = 0; c < 3; c++) {
      int ink = inverted ? cmyk[4 * x + c] : 255 - cmyk[4 * x + c];
      rgb[3 * x + c] = (uint8_t)(k * ink / 255);
    }
  }
}

// Takes in all scans of a progressive file, where the limits on memory and scans may end it: before
// memory for the pixels is taken.
static void start(JpegReader *reader) {
  struct jpeg_decompress_struct *decoder = &reader->decoder;
  bool cmyk = decoder->jpeg_color_space == JCS_CMYK || decoder->jpeg_color_space == JCS_YCCK;
  decoder->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  decoder->dct_method = JDCT_IFAST;
  decoder->do_fancy_upsampling = TRUE;
  (void)jpeg_start_decompress(decoder);
}

static void read_pixels(JpegReader *reader) {
  struct jpeg_decompress_struct *decoder = &reader->decoder;
  bool cmyk = decoder->out_color_space == JCS_CMYK;
  size_t width = decoder->output_width;
  JSAMPROW inks = NULL;
  if (cmyk) inks = decoder->mem->alloc_large((j_common_ptr)decoder, JPOOL_IMAGE, width * 4);
  while (decoder->output_scanline < decoder->output_height) {
    JSAMPROW row = reader->pixels + (size_t)decoder->output_scanline * width * 3;
    JSAMPROW target = cmyk ? inks : row;
    if (jpeg_read_scanlines(decoder, &target, 1) != 1) fail_with(reader, "no more rows");
    if (cmyk) fold_cmyk(row, inks, width, decoder->saw_Adobe_marker);
  }
}

static void reader_init(JpegReader *reader, const ImageSource *source) {
  *reader = (JpegReader){.source = source};
  reader->decoder.err = jpeg_std_error(&reader->errors);
  reader->errors.error_exit = fail;
  reader->errors.emit_message = on_message;
  reader->progress.progress_monitor = on_progress;
}

static Status jpeg_read_size(ImageSize *out, const ImageSource *source) {
  JpegReader reader;
  reader_init(&reader, source);
  Status status = STATUS_OK;
  if (run(&reader, read_header)) {
    out->height = reader.decoder.image_height;
    out->width = reader.decoder.image_width;
  } else {
    status = image__damaged(source, &image__jpeg, reader.reason);
  }
  jpeg_destroy_decompress(&reader.decoder);
  return status;
}

static Status jpeg_decode(Image *out, const ImageSource *source) {
  JpegReader reader;
  reader_init(&reader, source);
  Status status = STATUS_OK;
  if (!run(&reader, read_header)) goto damaged;
  int64_t height = reader.decoder.image_height, width = reader.decoder.image_width;
  GUARD(image__check_size(source, height, width));
  if (!run(&reader, start)) goto damaged;
  GUARD(image__alloc(out, source, height, width));
  reader.pixels = out->pixels;
  if (run(&reader, read_pixels)) goto out;
damaged:
  status = reader.limit != STATUS_OK ? reader.limit
                                     : image__damaged(source, &image__jpeg, reader.reason);
out:
  jpeg_destroy_decompress(&reader.decoder);
  return status;
}

const ImageCodec image__jpeg = {.name = "JPEG",
                                .magic = "\xff\xd8\xff",
                                .magic_size = 3,
                                .read_size = jpeg_read_size,
                                .decode = jpeg_decode};
