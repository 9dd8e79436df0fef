// Prints the learning rate of every step, for schedule_check.py to compare with Keras'.
//
//   schedule_dump STEPS_PER_EPOCH STEPS SECTION.KEY=VALUE...
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "train/schedule.h"

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  Config config = {0};
  ConfigProblems problems = {0};
  ConfigInput input = {.settings = (const char *const *)&argv[3],
                       .setting_count = (size_t)argc - 3,
                       .incomplete = true};
  long per_epoch = atol(argv[1]), steps = atol(argv[2]);
  Status status = config_load(&config, &problems, &input);
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  for (long step = 0; status == STATUS_OK && step < steps; step++)
    (void)printf("%.17g\n", schedule_rate(&config, config.train.batch, step, per_epoch, steps));
  config_problems_deinit(&problems);
  config_deinit(&config);
  return status != STATUS_OK;
}
