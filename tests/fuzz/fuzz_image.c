// Any bytes as an image: JPEG, PNG, GIF, BMP. What decodes has the size that its header told.
#include <stdbool.h>
#include <stdlib.h>

#include "io/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  ImageLimits limits = {.max_pixels = 1 << 18,
                        .max_side = 4096,
                        .jpeg_memory_bytes = 16 << 20,
                        .jpeg_scans = 8,
                        .decode_seconds = 2};
  Image image;
  ImageSize told;
  Status told_status = image_read_size(&told, data, size, &limits, "input");
  if (image_decode(&image, data, size, &limits, "input") != STATUS_OK) return 0;
  if (image.height * image.width > limits.max_pixels) abort();
  // The header of a GIF tells its screen, which may be larger than its first frame.
  bool is_gif = size > 3 && data[0] == 'G';
  if (!is_gif &&
      (told_status != STATUS_OK || told.height != image.height || told.width != image.width))
    abort();
  image_deinit(&image);
  return 0;
}
