// GIF through giflib: the first frame. Called by image.c.
//
// As tf.io.decode_image(expand_animations=False) does it: the canvas is as large as the largest
// frame (not the logical screen), black where the first frame does not reach or is transparent.
// Two passes: the first steps over all frames for the canvas, the second decodes one frame. Frames
// after the first may be cut off. giflib's own DGifSlurp is not used, as it takes memory for all.
#include "io/image_codec.h"

#include <stdbool.h>
#include <string.h>

#include <gif_lib.h>

#include "base/memory.h"

enum { FRAMES_UNASKED = 16, ROWS_UNASKED = 16 }; // between two questions for the time

typedef struct GifReader {
  GifFileType *gif;
  const ImageSource *source;
  size_t offset;   // of the next byte to hand to giflib
  int transparent; // colour index of the coming frame, or NO_TRANSPARENT_COLOR
} GifReader;

static int feed(GifFileType *gif, GifByteType *buffer, int wanted) {
  GifReader *reader = gif->UserData;
  size_t left = reader->source->size_bytes - reader->offset;
  size_t size = wanted < 0 ? 0 : (size_t)wanted;
  if (size > left) size = left;
  memcpy(buffer, reader->source->bytes + reader->offset, size);
  reader->offset += size;
  return (int)size;
}

static Status gif_fail(const ImageSource *source, int code) {
  if (code == D_GIF_ERR_NOT_ENOUGH_MEM)
    return status_set(STATUS_OS, "%s: out of memory while decoding", source->path);
  const char *reason = GifErrorString(code);
  return image__damaged(source, &image__gif, reason ? reason : "the data ends too soon");
}

static Status reader_open(GifReader *reader, const ImageSource *source) {
  *reader = (GifReader){.source = source, .transparent = NO_TRANSPARENT_COLOR};
  int code = 0;
  reader->gif = DGifOpen(reader, feed, &code);
  return reader->gif ? STATUS_OK : gif_fail(source, code);
}

static void reader_close(GifReader *reader) {
  if (reader->gif) (void)DGifCloseFile(reader->gif, NULL); // has nothing to say: nothing is written
}

static bool read_extension(GifReader *reader) {
  int kind;
  GifByteType *block; // the length, then the bytes
  if (DGifGetExtension(reader->gif, &kind, &block) != GIF_OK) return false;
  while (block) {
    GraphicsControlBlock control;
    if (kind == GRAPHICS_EXT_FUNC_CODE &&
        DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK)
      reader->transparent = control.TransparentColor;
    if (DGifGetExtensionNext(reader->gif, &block) != GIF_OK) return false;
  }
  return true;
}

// Goes to the next frame and reads its description. `*found` is false at the end of the file.
static bool next_frame(GifReader *reader, bool *found) {
  reader->transparent = NO_TRANSPARENT_COLOR;
  *found = false;
  for (;;) {
    GifRecordType kind;
    if (DGifGetRecordType(reader->gif, &kind) != GIF_OK) return false;
    if (kind == TERMINATE_RECORD_TYPE) return true;
    if (kind == IMAGE_DESC_RECORD_TYPE) {
      *found = true;
      return DGifGetImageDesc(reader->gif) == GIF_OK;
    }
    if (kind == EXTENSION_RECORD_TYPE && !read_extension(reader)) return false;
  }
}

static bool skip_frame(GifReader *reader) {
  int code_size;
  GifByteType *block;
  if (DGifGetCode(reader->gif, &code_size, &block) != GIF_OK) return false;
  while (block)
    if (DGifGetCodeNext(reader->gif, &block) != GIF_OK) return false;
  return true;
}

// The largest height and width of the frames that are whole.
static Status measure_canvas(int64_t *out_height, int64_t *out_width, const ImageSource *source) {
  GifReader reader;
  *out_height = *out_width = 0;
  TRY(reader_open(&reader, source));
  bool found, whole, late = false;
  int64_t frames = 0;
  while (!late && (whole = next_frame(&reader, &found)) && found && (whole = skip_frame(&reader))) {
    late = ++frames % FRAMES_UNASKED == 0 && image__is_late(source);
    if (reader.gif->Image.Height > *out_height) *out_height = reader.gif->Image.Height;
    if (reader.gif->Image.Width > *out_width) *out_width = reader.gif->Image.Width;
  }
  Status status = STATUS_OK;
  if (late)
    status = image__late(source);
  else if (*out_height == 0 || *out_width == 0)
    status = whole ? image__damaged(source, &image__gif, "it has no frame")
                   : gif_fail(source, reader.gif->Error);
  reader_close(&reader);
  return status;
}

// One row of the frame onto the canvas; parts outside are dropped. False for an index without a
// colour.
static bool draw_row(Image *canvas, const GifReader *reader, const GifByteType *indices,
                     int64_t frame_y) {
  const GifImageDesc *frame = &reader->gif->Image;
  const ColorMapObject *colors = frame->ColorMap ? frame->ColorMap : reader->gif->SColorMap;
  int64_t y = frame->Top + frame_y;
  if (y >= canvas->height) return true;
  int64_t end = canvas->width - frame->Left;
  if (end > frame->Width) end = frame->Width;
  uint8_t *row = canvas->pixels + (y * canvas->width + frame->Left) * 3;
  for (int64_t x = 0; x < end; x++) {
    int index = indices[x];
    if (index == reader->transparent) continue;
    if (index >= colors->ColorCount) return false;
    row[3 * x + 0] = colors->Colors[index].Red;
    row[3 * x + 1] = colors->Colors[index].Green;
    row[3 * x + 2] = colors->Colors[index].Blue;
  }
  return true;
}

static Status draw_frame(Image *canvas, GifReader *reader) {
  static const struct {
    int start, step;
  } whole[] = {{0, 1}}, interlaced[] = {{0, 8}, {4, 8}, {2, 4}, {1, 2}};
  const GifImageDesc *frame = &reader->gif->Image;
  if (!frame->ColorMap && !reader->gif->SColorMap)
    return image__damaged(reader->source, &image__gif, "the first frame has no colour map");
  GifByteType *indices = NULL;
  Status status;
  GUARD(memory_alloc(&indices, (size_t)frame->Width, 1));
  int passes = frame->Interlace ? 4 : 1, rows = 0;
  for (int pass = 0; pass < passes; pass++) {
    int start = frame->Interlace ? interlaced[pass].start : whole[pass].start;
    int step = frame->Interlace ? interlaced[pass].step : whole[pass].step;
    for (int y = start; y < frame->Height; y += step) {
      if (rows++ % ROWS_UNASKED == 0 && image__is_late(reader->source))
        GUARD(image__late(reader->source));
      if (DGifGetLine(reader->gif, indices, frame->Width) != GIF_OK)
        GUARD(gif_fail(reader->source, reader->gif->Error));
      if (!draw_row(canvas, reader, indices, y))
        GUARD(image__damaged(reader->source, &image__gif, "a pixel has no colour in the map"));
    }
  }
out:
  memory_free(indices);
  return status;
}

static Status gif_read_size(ImageSize *out, const ImageSource *source) {
  GifReader reader;
  TRY(reader_open(&reader, source));
  out->height = reader.gif->SHeight;
  out->width = reader.gif->SWidth;
  reader_close(&reader);
  return STATUS_OK;
}

static Status gif_decode(Image *out, const ImageSource *source) {
  int64_t height, width;
  TRY(measure_canvas(&height, &width, source));
  TRY(image__alloc(out, source, height, width));
  GifReader reader;
  TRY(reader_open(&reader, source));
  bool found;
  Status status = next_frame(&reader, &found) && found ? draw_frame(out, &reader)
                                                       : gif_fail(source, reader.gif->Error);
  reader_close(&reader);
  return status;
}

const ImageCodec image__gif = {.name = "GIF",
                               .magic = "GIF8",
                               .magic_size = 4,
                               .read_size = gif_read_size,
                               .decode = gif_decode};
