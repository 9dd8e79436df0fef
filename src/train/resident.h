// The images of training, resized, in the memory of a GPU: read once before the first step, so that
// a step takes in which of them it is to see and how they are moved, and no pixels.
//
// The shuffle brings every sample to every rank, so each rank keeps all of them; each decodes its
// part of the list and sends it to the others. A batch is the one that a loader would make: the
// same samples, stand-ins of bad images and random changes, so no bit of a result depends on this.
#ifndef IMGCLS_TRAIN_RESIDENT_H
#define IMGCLS_TRAIN_RESIDENT_H

#include "data/loader.h"
#include "dist/watchdog.h"
#include "dist/world.h"
#include "train/bad_files.h"

typedef struct Resident Resident;

typedef struct ResidentDesc {
  World *world;             // borrowed, as the rest
  const LoaderDesc *loader; // what would load the images: the list, the sampler, the share
  Watchdog *watchdog;       // may be NULL
  BadFiles *bad_files;      // where bad ones are written down
  Log *log;
} ResidentDesc;

// Bytes of the device that the images of a list take, and of the host while they are loaded.
size_t resident_device_bytes(const LoaderDesc *loader);
size_t resident_host_bytes(const LoaderDesc *loader, const World *world);

// Loads all images. Fails with STATUS_DATA where more of them are bad than a loader allows, with
// STATUS_STOPPED after a request to stop. Collective.
MUST_CHECK Status resident_load(Resident **out, const ResidentDesc *desc);
void resident_free(Resident *resident); // NULL is fine

// This rank's share of global batch `step`. Valid until the next call.
MUST_CHECK Status resident_read(Resident *resident, const Batch **out, int64_t step);

#endif
