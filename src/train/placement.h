// Which device each rank computes on. Asked once, before the rank is bound to cores near it.
#ifndef IMGCLS_TRAIN_PLACEMENT_H
#define IMGCLS_TRAIN_PLACEMENT_H

#include "backend/backend.h"
#include "config/config.h"
#include "dist/world.h"

typedef struct PlacementDesc {
  ConfigDevice device;
  bool share_gpu; // several ranks may use one GPU
  World *world;   // NULL: alone
} PlacementDesc;

typedef struct Placement {
  const Backend *backend;
  int index;         // of its device on this machine
  const char *model; // a device to plan for that is not here, "h200"; NULL: one that is
  DeviceIdentity identity;
  int sharers; // ranks on this device, with this one
  char why_not[512]; // of `auto`: why not the backends before this one; "" where it is the first
} Placement;

// auto takes the first backend (backend/backend.h) that has a device on every rank; a device that is
// there but cannot be used is an error, as it is where another one was asked for. STATUS_CONFIG where
// ranks would share a GPU unasked. Every rank gets the same backend. Collective.
MUST_CHECK Status placement_find(Placement *out, const PlacementDesc *desc);

// Reads "auto", "cpu" or "cuda".
MUST_CHECK Status placement_parse_device(ConfigDevice *out, const char *text);

#endif
