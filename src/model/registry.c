// Finding backbones by name. See registry.h.
#include "model/registry.h"

#include <string.h>

#include "config/nearest.h"
#include "model/family.h"

static const ModelFamily *const families[] = {
    &model__mobilenet_v2,
    &model__mobilenet_v3,
    &model__resnet_v1,
    &model__resnet_v2,
    &model__inception,
    &model__efficientnet,
    &model__efficientnet_v2,
    &model__nasnet,
    &model__bit,
};

enum { FAMILY_COUNT = sizeof families / sizeof *families };

int model_count(void) {
  int count = 0;
  for (int i = 0; i < FAMILY_COUNT; i++) count += families[i]->count;
  return count;
}

const ModelDesc *model_at(int index) {
  for (int i = 0; i < FAMILY_COUNT; i++) {
    if (index < families[i]->count) return &families[i]->models[index];
    index -= families[i]->count;
  }
  return NULL;
}

Status model_find(const ModelDesc **out, const char *name) {
  *out = NULL;
  Nearest nearest = {.wanted = name};
  for (int i = 0; i < model_count(); i++) {
    const ModelDesc *desc = model_at(i);
    if (strcmp(desc->name, name) == 0) {
      *out = desc;
      return STATUS_OK;
    }
    nearest_offer(&nearest, desc->name);
  }
  if (nearest.best)
    return status_set(STATUS_CONFIG,
                      "unknown backbone \"%s\": did you mean \"%s\"? "
                      "`imgcls models` lists all",
                      name, nearest.best);
  return status_set(STATUS_CONFIG, "unknown backbone \"%s\": `imgcls models` lists all", name);
}
