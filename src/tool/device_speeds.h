// How fast a device moves bytes and multiplies, by measurement: what the time of an operation is held
// against.
#ifndef IMGCLS_TOOL_DEVICE_SPEEDS_H
#define IMGCLS_TOOL_DEVICE_SPEEDS_H

#include "backend/backend.h"

typedef struct DeviceSpeeds {
  double bytes_s;           // of a pass over far more than the caches hold, read and written
  double multiplications_s; // of a large matrix product, a 1 x 1 convolution, of one type
} DeviceSpeeds;

// Takes up to a few hundred MiB of the device's memory meanwhile.
MUST_CHECK Status device_speeds_measure(DeviceSpeeds *out, const Backend *backend, Device *device,
                                        DType dtype);

#endif
