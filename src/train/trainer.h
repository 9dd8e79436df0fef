// A training run from its configuration to its model file. Called by main_train.c.
#ifndef IMGCLS_TRAIN_TRAINER_H
#define IMGCLS_TRAIN_TRAINER_H

#include "base/log.h"
#include "config/config.h"
#include "dist/binding.h"
#include "dist/world.h"
#include "train/placement.h"

typedef struct TrainerDesc {
  const Config *config;
  World *world;
  const Placement *placement;
  const Binding *binding;
  Log *log;     // all borrowed; rank 0's is copied to train.log in the run's folder from then on
  bool dry_run; // plan and report, no training
} TrainerDesc;

// Trains, evaluates, saves. STATUS_STOPPED after a request to stop, with a checkpoint written.
// Collective. A rank may fail alone while others wait in a collective call; so where one of several
// fails, it has closed nothing, and its caller ends the job (world_fail).
MUST_CHECK Status trainer_run(const TrainerDesc *desc);

#endif
