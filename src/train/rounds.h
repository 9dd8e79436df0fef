// One pass over a whole list of images before the first step, on all ranks: round by round, each
// rank gets a block of the list. Says how far it is, stops on a signal, and writes bad files down.
#ifndef IMGCLS_TRAIN_ROUNDS_H
#define IMGCLS_TRAIN_ROUNDS_H

#include "data/loader.h"
#include "dist/watchdog.h"
#include "dist/world.h"
#include "train/bad_files.h"

typedef struct RoundsDesc {
  World *world; // borrowed, as the rest
  // What would load the images; its sampler, share and steps are the rounds' own.
  const LoaderDesc *loader;
  Watchdog *watchdog;  // may be NULL
  BadFiles *bad_files; // where bad ones are written down; may be NULL
  Log *log;
  int64_t block;         // images that a rank gets in a round
  const char *phase;     // for the watchdog
  const char *stop_text; // what a signal interrupts: "computing features"
  // Takes this rank's part of the next round from the loader; adds the images of all ranks to
  // *done.
  Status (*take)(void *context, Loader *loader, int64_t *done);
  // Says for people how far it is, after so many images and seconds.
  void (*tell)(const void *context, char *text, size_t capacity, int64_t done, double seconds);
  void *context; // of both
} RoundsDesc;

// Fails with STATUS_STOPPED after a request to stop. Collective.
MUST_CHECK Status rounds_run(const RoundsDesc *desc, double *seconds);

#endif
