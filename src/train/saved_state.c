// The numbers of a run in a checkpoint. See saved_state.h.
#include "train/saved_state.h"

#include <float.h>
#include <stdbool.h>
#include <stddef.h>

// A million epochs of a billion steps; a double counts so far exactly.
static const double most_steps = 1e15;

typedef struct Number {
  const char *name;
  size_t offset; // of an int64_t or, of a real number, a double
  double least, most;
  bool is_real, is_required;
} Number;

static Status read_number(SavedState *out, const Number *number, const json_t *root,
                          const char *path) {
  const json_t *value = json_object_get(root, number->name);
  void *place = (char *)out + number->offset;
  if (!value && !number->is_required) return STATUS_OK;
  bool is_kind = number->is_real ? json_is_number(value) : json_is_integer(value);
  double got = json_number_value(value);
  if (!is_kind || !(got >= number->least && got <= number->most))
    return status_set(STATUS_DATA,
                      "%s: the state of its run has no \"%s\" of %.15g to %.15g: it is damaged, or "
                      "another version's; take another file",
                      path, number->name, number->least, number->most);
  if (number->is_real)
    *(double *)place = got;
  else
    *(int64_t *)place = json_integer_value(value);
  return STATUS_OK;
}

Status saved_state_read(SavedState *out, const json_t *root, const char *path) {
  const Number numbers[] = {
      {"format", offsetof(SavedState, format), 1, 1, false, true},
      {"step", offsetof(SavedState, step), 0, most_steps, false, true},
      {"epoch_loss", offsetof(SavedState, sums.loss), -DBL_MAX, DBL_MAX, true, false},
      {"epoch_correct", offsetof(SavedState, sums.correct), 0, most_steps, true, false},
      {"epoch_samples", offsetof(SavedState, sums.samples), 0, most_steps, true, false},
      {"virtual_workers", offsetof(SavedState, virtual_workers), 0, 1 << 20, false, false},
      {"loss_scale", offsetof(SavedState, loss_scale), 1, 0x1p127, true, false},
      {"loss_scale_good_steps", offsetof(SavedState, good_steps), 0, most_steps, false, false},
      {"steps_left_out", offsetof(SavedState, steps_left_out), 0, most_steps, false, false},
  };
  *out = (SavedState){0};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    TRY(read_number(out, &numbers[i], root, path));
  return STATUS_OK;
}
