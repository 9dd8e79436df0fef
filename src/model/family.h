// The families of backbones, each defined in the file of its name: rows for the registry. A new
// backbone of a known family is a row there; a new family is a file, a line here, one in
// registry.c.
#ifndef IMGCLS_MODEL_FAMILY_H
#define IMGCLS_MODEL_FAMILY_H

#include "model/registry.h"

typedef struct ModelFamily {
  const ModelDesc *models;
  int count;
} ModelFamily;

extern const ModelFamily model__bit;
extern const ModelFamily model__efficientnet;
extern const ModelFamily model__efficientnet_v2;
extern const ModelFamily model__inception;
extern const ModelFamily model__mobilenet_v2;
extern const ModelFamily model__mobilenet_v3;
extern const ModelFamily model__nasnet;
extern const ModelFamily model__resnet_v1;
extern const ModelFamily model__resnet_v2;

#endif
