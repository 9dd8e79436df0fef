// See cudnn_descriptor.h.
#include "cudnn_descriptor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

static size_t size_of_type(cudnnBackendAttributeType_t type) {
  switch (type) {
  case CUDNN_TYPE_HANDLE:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    return sizeof(void *);
  case CUDNN_TYPE_INT64:
    return sizeof(int64_t);
  case CUDNN_TYPE_BOOLEAN:
    return sizeof(bool);
  case CUDNN_TYPE_FLOAT:
    return sizeof(float);
  case CUDNN_TYPE_DATA_TYPE:
  case CUDNN_TYPE_CONVOLUTION_MODE:
  case CUDNN_TYPE_POINTWISE_MODE:
  case CUDNN_TYPE_HEUR_MODE:
  case CUDNN_TYPE_GENSTATS_MODE:
  case CUDNN_TYPE_BEHAVIOR_NOTE:
  case CUDNN_TYPE_NUMERICAL_NOTE:
    return sizeof(int);
  case CUDNN_TYPE_DOUBLE:
    return sizeof(double);
  case CUDNN_TYPE_CHAR:
    return 1;
  default:
    standin_unknown("an attribute of type %d", (int)type);
  }
}

const Attribute *descriptor_find(const Descriptor *d, cudnnBackendAttributeName_t name) {
  for (int i = 0; i < d->attribute_count; i++)
    if (d->attributes[i].name == name) return &d->attributes[i];
  return NULL;
}

const void *descriptor_get(const Descriptor *d, cudnnBackendAttributeName_t name) {
  const Attribute *attribute = descriptor_find(d, name);
  if (!attribute) standin_unknown("descriptor %d lacks attribute %d", (int)d->type, (int)name);
  return attribute->values;
}

const Descriptor *descriptor_part(const Descriptor *d, cudnnBackendAttributeName_t name) {
  return *(Descriptor *const *)descriptor_get(d, name);
}

static void hold(const Attribute *attribute, int change);

void descriptor_release(Descriptor *d) {
  if (--d->references > 0) return;
  for (int i = 0; i < d->attribute_count; i++) {
    hold(&d->attributes[i], -1);
    free(d->attributes[i].values);
  }
  free(d);
}

// An attribute of descriptors keeps them, or lets them go.
static void hold(const Attribute *attribute, int change) {
  if (attribute->type != CUDNN_TYPE_BACKEND_DESCRIPTOR) return;
  for (int64_t i = 0; i < attribute->count; i++) {
    Descriptor *d = ((Descriptor *const *)attribute->values)[i];
    if (change > 0)
      d->references++;
    else
      descriptor_release(d);
  }
}

void descriptor_put(Descriptor *d, cudnnBackendAttributeName_t name,
                    cudnnBackendAttributeType_t type, int64_t count, const void *values) {
  if (d->attribute_count == ATTRIBUTES_MAX || descriptor_find(d, name))
    standin_unknown("attribute %d, one too many or twice", (int)name);
  size_t size = size_of_type(type) * (size_t)count;
  Attribute *attribute = &d->attributes[d->attribute_count++];
  *attribute = (Attribute){name, type, count, malloc(size ? size : 1)};
  memcpy(attribute->values, values, size);
  hold(attribute, 1);
}

// --- in words ------------------------------------------------------------------------------------

enum { KNOWN_MAX = 64 };

typedef struct Words {
  FILE *stream;
  Descriptor *known[KNOWN_MAX]; // in the order of their first mention
  int known_count;
} Words;

static void write_words(Words *w, Descriptor *d) {
  for (int i = 0; i < w->known_count; i++)
    if (w->known[i] == d) {
      fprintf(w->stream, "= %d ", i);
      return;
    }
  if (w->known_count == KNOWN_MAX) standin_unknown("a graph of many descriptors");
  w->known[w->known_count++] = d;
  fprintf(w->stream, "d %d %d ", (int)d->type, d->attribute_count);
  for (int a = 0; a < d->attribute_count; a++) {
    const Attribute *attribute = &d->attributes[a];
    fprintf(w->stream, "%d %d %d ", (int)attribute->name, (int)attribute->type,
            (int)attribute->count);
    bool is_handle = attribute->type == CUDNN_TYPE_HANDLE; // of this process alone
    for (int64_t i = 0; i < attribute->count; i++) {
      if (attribute->type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        write_words(w, ((Descriptor **)attribute->values)[i]);
      for (size_t k = 0;
           attribute->type != CUDNN_TYPE_BACKEND_DESCRIPTOR && k < size_of_type(attribute->type);
           k++) {
        size_t at = (size_t)i * size_of_type(attribute->type) + k;
        fprintf(w->stream, "%d ", is_handle ? 0 : ((uint8_t *)attribute->values)[at]);
      }
    }
  }
}

// NULL where the words are not of write_words.
static Descriptor *read_words(Words *w) {
  char kind;
  int a = 0, b = 0;
  if (fscanf(w->stream, " %c %d", &kind, &a) != 2) return NULL;
  if (kind == '=') {
    if (a < 0 || a >= w->known_count) return NULL;
    w->known[a]->references++;
    return w->known[a];
  }
  if (kind != 'd' || fscanf(w->stream, "%d", &b) != 1 || w->known_count == KNOWN_MAX) return NULL;
  Descriptor *d = calloc(1, sizeof *d);
  *d = (Descriptor){.type = a, .references = 1, .is_final = true};
  w->known[w->known_count++] = d;
  for (int i = 0; i < b; i++) {
    int name, type, count;
    if (fscanf(w->stream, "%d %d %d", &name, &type, &count) != 3) return NULL;
    size_t size = size_of_type(type);
    uint8_t *values = calloc((size_t)count + 1, size);
    for (int k = 0; k < count; k++) {
      if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        Descriptor *part = read_words(w);
        if (!part) return NULL;
        memcpy(values + (size_t)k * size, &part, size);
      }
      for (size_t j = 0; type != CUDNN_TYPE_BACKEND_DESCRIPTOR && j < size; j++)
        if (fscanf(w->stream, "%hhu", &values[(size_t)k * size + j]) != 1) return NULL;
    }
    descriptor_put(d, name, type, count, values);
    for (int k = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && k < count; k++)
      descriptor_release(((Descriptor **)(void *)values)[k]); // put holds them now
    free(values);
  }
  return d;
}

char *descriptor_write(Descriptor *d) {
  char *text = NULL;
  size_t size = 0;
  Words words = {.stream = open_memstream(&text, &size)};
  fprintf(words.stream, "stand-in plan ");
  write_words(&words, d);
  fclose(words.stream);
  return text;
}

Descriptor *descriptor_read(const char *text, size_t size) {
  Words words = {.stream = fmemopen((void *)text, size, "r")};
  int start = 0;
  Descriptor *d =
      fscanf(words.stream, "stand-in plan%n", &start) == 0 && start > 0 ? read_words(&words) : NULL;
  fclose(words.stream);
  return d;
}
