// See image_samples.h. An encoder that fails ends the test program: it is the test's own bug.
#include "unit/image_samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <spng.h>

#include "base/memory.h"
#include "base/rng.h"

static void require(bool good) {
  if (!good) abort();
}

void bytes_append(Bytes *bytes, const void *data, size_t size) {
  require(memory_reserve(&bytes->data, &bytes->capacity, bytes->size + size, 1) == STATUS_OK);
  if (size) memcpy(bytes->data + bytes->size, data, size);
  bytes->size += size;
}

void bytes_append_u16le(Bytes *bytes, unsigned value) {
  bytes_append(bytes, (uint8_t[]){(uint8_t)value, (uint8_t)(value >> 8)}, 2);
}

void bytes_append_u32le(Bytes *bytes, uint32_t value) {
  bytes_append_u16le(bytes, value & 0xffff);
  bytes_append_u16le(bytes, value >> 16);
}

void bytes_append_u32be(Bytes *bytes, uint32_t value) {
  bytes_append_u32le(bytes, __builtin_bswap32(value));
}

uint32_t png_crc(const uint8_t *bytes, size_t size) {
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}

static uint8_t noise(size_t index, int smooth) {
  RngWords words = rng_draw(1, RNG_SYNTHETIC, 0, index >> smooth, 0);
  return (uint8_t)words.word[0];
}

// --- JPEG: the option is the colour space, negative for a progressive file -----------------------

static void make_jpeg(Bytes *out, int option) {
  struct jpeg_compress_struct encoder;
  struct jpeg_error_mgr errors;
  unsigned char *data = NULL;
  unsigned long size = 0;
  J_COLOR_SPACE space = (J_COLOR_SPACE)abs(option);
  int channels = space == JCS_GRAYSCALE ? 1 : space == JCS_CMYK ? 4 : 3;
  encoder.err = jpeg_std_error(&errors); // its error_exit ends the program
  jpeg_create_compress(&encoder);
  jpeg_mem_dest(&encoder, &data, &size);
  encoder.image_width = SAMPLE_WIDTH;
  encoder.image_height = SAMPLE_HEIGHT;
  encoder.input_components = channels;
  encoder.in_color_space = space;
  jpeg_set_defaults(&encoder);
  if (option < 0) jpeg_simple_progression(&encoder);
  jpeg_start_compress(&encoder, TRUE);
  uint8_t pixels[SAMPLE_WIDTH * 4];
  for (size_t y = 0; y < SAMPLE_HEIGHT; y++) {
    JSAMPROW row = pixels;
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = noise(y * sizeof pixels + i, 2);
    (void)jpeg_write_scanlines(&encoder, &row, 1);
  }
  jpeg_finish_compress(&encoder);
  jpeg_destroy_compress(&encoder);
  bytes_append(out, data, size);
  free(data); // libjpeg's own
}

// --- PNG: the option is bit depth * 100 + colour type * 10 + interlacing -------------------------

static void make_png(Bytes *out, int option) {
  struct spng_ihdr header = {.width = SAMPLE_WIDTH,
                             .height = SAMPLE_HEIGHT,
                             .bit_depth = (uint8_t)(option / 100),
                             .color_type = (uint8_t)(option / 10 % 10),
                             .interlace_method = (uint8_t)(option % 10)};
  static const size_t channels[] = {1, 0, 3, 1, 2, 0, 4};
  spng_ctx *encoder = spng_ctx_new(SPNG_CTX_ENCODER);
  require(encoder && spng_set_option(encoder, SPNG_ENCODE_TO_BUFFER, 1) == 0);
  require(spng_set_ihdr(encoder, &header) == 0);
  struct spng_plte palette = {.n_entries = 256};
  for (size_t i = 0; i < 256; i++)
    palette.entries[i] = (struct spng_plte_entry){noise(i, 0), noise(i + 256, 0), (uint8_t)i, 0};
  if (header.color_type == SPNG_COLOR_TYPE_INDEXED) require(spng_set_plte(encoder, &palette) == 0);
  uint8_t pixels[SAMPLE_HEIGHT * SAMPLE_WIDTH * 8];
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = noise(i, 1);
  size_t size =
      SAMPLE_HEIGHT * ((SAMPLE_WIDTH * channels[header.color_type] * header.bit_depth + 7) / 8);
  require(spng_encode_image(encoder, pixels, size, SPNG_FMT_PNG, SPNG_ENCODE_FINALIZE) == 0);
  int code;
  void *data = spng_get_png_buffer(encoder, &size, &code);
  require(data != NULL);
  bytes_append(out, data, size);
  free(data); // libspng's own
  spng_ctx_free(encoder);
}

// --- GIF: LZW without compression, as the code table is cleared before it needs a tenth bit ------

typedef struct BitWriter {
  Bytes *out;
  uint8_t block[256];
  uint32_t bits;
  int bit_count;
} BitWriter;

static void flush_block(BitWriter *writer) {
  if (writer->block[0] > 0) bytes_append(writer->out, writer->block, (size_t)writer->block[0] + 1);
  writer->block[0] = 0;
}

static void put_code(BitWriter *writer, uint32_t code, int bit_count) {
  writer->bits |= code << writer->bit_count;
  writer->bit_count += bit_count;
  for (; writer->bit_count >= 8; writer->bit_count -= 8, writer->bits >>= 8) {
    writer->block[++writer->block[0]] = (uint8_t)writer->bits;
    if (writer->block[0] == 255) flush_block(writer);
  }
}

void gif_make(Bytes *out, unsigned width, unsigned height, bool interlaced) {
  bytes_append(out, "GIF89a", 6);
  bytes_append_u16le(out, width);
  bytes_append_u16le(out, height);
  bytes_append(out, "\xf7\0\0", 3); // a global map of 256 colours
  for (size_t i = 0; i < 768; i++) bytes_append(out, &(uint8_t){noise(i, 0)}, 1);
  bytes_append(out, "\x21\xf9\x04\x01\x05\0\x07\0", 8); // colour 7 is transparent
  bytes_append(out, "\x2c\0\0\0\0", 5);
  bytes_append_u16le(out, width);
  bytes_append_u16le(out, height);
  bytes_append(out, interlaced ? "\x40\x08" : "\0\x08", 2);
  BitWriter writer = {.out = out};
  for (size_t i = 0; i < (size_t)width * height; i++) {
    if (i % 250 == 0) put_code(&writer, 256, 9);
    put_code(&writer, noise(i, 1), 9);
  }
  put_code(&writer, 257, 9);
  put_code(&writer, 0, 7); // pushes out the last byte
  flush_block(&writer);
  bytes_append(out, "\0;", 2);
}

static void make_gif(Bytes *out, int interlaced) {
  gif_make(out, SAMPLE_WIDTH, SAMPLE_HEIGHT, interlaced);
}

// --- BMP: the option is the bits of a pixel ------------------------------------------------------

static void make_bmp(Bytes *out, int bits) {
  uint32_t colors = bits == 8 ? 256 : 0;
  uint32_t row_size = ((uint32_t)(SAMPLE_WIDTH * bits) + 31) / 32 * 4;
  uint32_t pixels_at = 54 + colors * 4;
  bytes_append(out, "BM", 2);
  bytes_append_u32le(out, pixels_at + row_size * SAMPLE_HEIGHT);
  bytes_append_u32le(out, 0);
  bytes_append_u32le(out, pixels_at);
  bytes_append_u32le(out, 40);
  bytes_append_u32le(out, SAMPLE_WIDTH);
  bytes_append_u32le(out, SAMPLE_HEIGHT);
  bytes_append_u16le(out, 1);
  bytes_append_u16le(out, (unsigned)bits);
  bytes_append_u32le(out, 0); // not compressed
  bytes_append_u32le(out, row_size * SAMPLE_HEIGHT);
  for (int i = 0; i < 2; i++) bytes_append_u32le(out, 2835); // dots a metre
  bytes_append_u32le(out, colors);
  bytes_append_u32le(out, 0);
  for (uint32_t i = 0; i < colors; i++) bytes_append_u32le(out, i * 0x010203 & 0xffffff);
  for (size_t i = 0; i < row_size * SAMPLE_HEIGHT; i++)
    bytes_append(out, &(uint8_t){noise(i, 1)}, 1);
}

const Sample samples[SAMPLE_COUNT] = {
    {"baseline.jpg", make_jpeg, JCS_RGB},
    {"progressive.jpg", make_jpeg, -JCS_RGB},
    {"grey.jpg", make_jpeg, JCS_GRAYSCALE},
    {"cmyk.jpg", make_jpeg, JCS_CMYK},
    {"rgb.png", make_png, 820},
    {"palette.png", make_png, 830},
    {"grey_alpha.png", make_png, 840},
    {"rgba16.png", make_png, 1660},
    {"1bit.png", make_png, 100},
    {"interlaced_rgb.png", make_png, 821},
    {"plain.gif", make_gif, false},
    {"interlaced.gif", make_gif, true},
    {"24.bmp", make_bmp, 24},
    {"8.bmp", make_bmp, 8},
};
