// The weights in a file, as a list of layers, whatever the kind of file. load.c matches them with a
// graph; parse.c takes the values of Normalization layers from them.
//
// Whole models and Keras 2's weights name their arrays LAYER/role, so arrays of one group and one
// LAYER are one layer; a nested model lists its trained weights first, so its layers are put back
// into the order of the configuration. Keras 3's store numbers the layers class by class.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "keras/keras_internal.h"

enum { MAX_MODEL_DEPTH = 32, MAX_LAYERS = 20000, MAX_PLACE_BYTES = 1024 };

// Reading from a file that names its arrays.
typedef struct Listing {
  Source *source;
  const H5File *file;
  json_t *classes; // GROUP/LAYER: [class, position]; NULL without a configuration
} Listing;

void keras__source_free(Source *source) {
  if (!source) return;
  for (int i = 0; i < source->count; i++) {
    SourceLayer *layer = &source->layers[i];
    memory_free(layer->group);
    memory_free(layer->name);
    for (int j = 0; j < layer->array_count; j++) memory_free(layer->arrays[j].path);
  }
  memory_free(source->layers);
  memory_free(source);
}

const SourceLayer *keras__source_find(const Source *source, const char *name) {
  for (int i = 0; i < source->count; i++)
    if (strcmp(source->layers[i].name, name) == 0) return &source->layers[i];
  return NULL;
}

// The last layer of the source when it is the wanted one; else the wanted one, new where absent.
static Status find_or_add(SourceLayer **out, Source *source, const char *group, const char *name) {
  for (int i = source->count; i-- > 0;)
    if (strcmp(source->layers[i].name, name) == 0 && strcmp(source->layers[i].group, group) == 0) {
      *out = &source->layers[i];
      return STATUS_OK;
    }
  if (source->count >= MAX_LAYERS)
    return status_set(STATUS_DATA, "more than %d layers with weights", MAX_LAYERS);
  TRY(memory_reserve(&source->layers, &source->capacity, (size_t)source->count + 1,
                     sizeof *source->layers));
  SourceLayer *layer = &source->layers[source->count];
  *layer = (SourceLayer){.kind = LAYER_KIND_COUNT, .rank = source->count};
  TRY(memory_copy_string(&layer->group, group));
  Status status = memory_copy_string(&layer->name, name);
  if (status != STATUS_OK) {
    memory_free(layer->group);
    return status;
  }
  source->count++;
  *out = layer;
  return STATUS_OK;
}

// Adds the array at `path` (taken over) to the layer. Integers (counters) are no weights.
static Status add_array(SourceLayer *layer, const H5File *file, char *path, const char *role) {
  DType dtype;
  Shape shape;
  Status status = h5_array_info(&dtype, &shape, file, path);
  if (status == STATUS_OK && dtype == DTYPE_F32) {
    if (layer->array_count < SOURCE_MAX_ARRAYS) {
      layer->arrays[layer->array_count++] =
          (SourceArray){.path = path, .role = role, .shape = shape};
      return STATUS_OK;
    }
    status = status_set(STATUS_DATA, "%s: layer %s has more than %d arrays of weights",
                        h5_name(file), layer->name, SOURCE_MAX_ARRAYS);
  }
  memory_free(path);
  return status;
}

static bool role_is(const SourceArray *array, const char *role) {
  size_t length = strlen(role);
  return array->role && strncmp(array->role, role, length) == 0 &&
         (array->role[length] == '\0' || array->role[length] == ':');
}

static LayerKind kind_of_class(const char *class_name) {
  static const LayerKind weighted[] = {
      LAYER_CONV2D,       LAYER_DEPTHWISE_CONV2D,    LAYER_SEPARABLE_CONV2D,
      LAYER_DENSE,        LAYER_BATCH_NORMALIZATION, LAYER_GROUP_NORMALIZATION,
      LAYER_NORMALIZATION};
  for (size_t i = 0; i < sizeof weighted / sizeof *weighted; i++)
    if (strcmp(class_name, layer_kind_name(weighted[i])) == 0) return weighted[i];
  return LAYER_KIND_COUNT;
}

// What a layer must be, by its arrays alone.
static LayerKind kind_of_arrays(const SourceLayer *layer) {
  if (layer->array_count == 0) return LAYER_KIND_COUNT;
  const SourceArray *first = &layer->arrays[0];
  if (role_is(first, "depthwise_kernel"))
    return layer->array_count > 1 && role_is(&layer->arrays[1], "pointwise_kernel")
               ? LAYER_SEPARABLE_CONV2D
               : LAYER_DEPTHWISE_CONV2D;
  if (role_is(first, "mean") || role_is(first, "variance")) return LAYER_NORMALIZATION;
  if (role_is(first, "gamma") || role_is(first, "beta") || role_is(first, "moving_mean"))
    return role_is(&layer->arrays[layer->array_count - 1], "moving_variance")
               ? LAYER_BATCH_NORMALIZATION
               : LAYER_GROUP_NORMALIZATION;
  if (!role_is(first, "kernel")) return LAYER_KIND_COUNT;
  if (first->shape.rank == 2) return LAYER_DENSE;
  if (first->shape.rank != 4) return LAYER_KIND_COUNT;
  // Keras 3 calls the depthwise kernel "kernel" too; its last dimension is the multiplier.
  return first->shape.dim[3] == 1 && first->shape.dim[2] > 1 ? LAYER_DEPTHWISE_CONV2D
                                                             : LAYER_CONV2D;
}

// --- files that name their arrays ----------------------------------------------------------------

// Where the name of the layer begins in PLACE, which may have other names before it: the name
// itself may have slashes, as those of MobileNetV3. The longest end that the configuration knows,
// NULL where it knows none.
static Status find_known_name(const char **out, const Listing *listing, const char *group,
                              const char *place) {
  *out = NULL;
  for (const char *start = place; start && !*out; start = strchr(start, '/')) {
    char *key;
    start += *start == '/';
    TRY(memory_print_string(&key, "%s/%s", group, start));
    if (json_object_get(listing->classes, key)) *out = start;
    memory_free(key);
  }
  return STATUS_OK;
}

// The layer at GROUP/PLACE. One that no configuration tells of has the last of the names, and is
// held by all before it.
static Status find_or_add_at(SourceLayer **out, Listing *listing, const char *group,
                             const char *place) {
  const char *name, *last = strrchr(place, '/');
  char *holder;
  TRY(find_known_name(&name, listing, group, place));
  if (name || !last) return find_or_add(out, listing->source, group, name ? name : place);
  TRY(memory_print_string(&holder, "%s/%.*s", group, (int)(last - place), place));
  Status status = find_or_add(out, listing->source, holder, last + 1);
  memory_free(holder);
  return status;
}

// Adds one array. `name` is "PLACE/role:0"; without PLACE it belongs to the layer that the group is
// named after.
static Status add_named(Listing *listing, const char *base, const char *group, const char *name) {
  const char *slash = strrchr(name, '/');
  SourceLayer *layer;
  char *path;
  if (slash && slash - name > MAX_PLACE_BYTES)
    return status_set(STATUS_DATA, "%s: a layer's name has %td bytes", h5_name(listing->file),
                      slash - name);
  if (slash) {
    char *place;
    TRY(memory_print_string(&place, "%.*s", (int)(slash - name), name));
    Status status = find_or_add_at(&layer, listing, group, place);
    memory_free(place);
    TRY(status);
  } else {
    TRY(find_or_add(&layer, listing->source, group, group));
  }
  TRY(memory_print_string(&path, "%s%s/%s", base, group, name));
  if (h5_kind(listing->file, path) != H5_KIND_ARRAY) {
    Status status =
        status_set(STATUS_DATA, "%s: lists the weight %s but does not hold it: it is damaged",
                   h5_name(listing->file), path);
    memory_free(path);
    return status;
  }
  const char *role = strrchr(path, '/') + 1;
  return add_array(layer, listing->file, path, role);
}

static Status add_group(Listing *listing, const char *base, const char *group) {
  char *path;
  H5Strings names = {0};
  TRY(memory_print_string(&path, "%s%s", base, group));
  Status status = STATUS_OK;
  if (h5_kind(listing->file, path) != H5_KIND_GROUP) {
    status = status_set(STATUS_DATA, "%s: lists the layer %s but does not hold it: it is damaged",
                        h5_name(listing->file), group);
    goto out;
  }
  GUARD(h5_read_strings(&names, listing->file, path, "weight_names"));
  for (int64_t i = 0; i < names.count; i++) GUARD(add_named(listing, base, group, names.items[i]));
out:
  h5_strings_free(&names);
  memory_free(path);
  return status;
}

// Notes class and position of every layer of a model's configuration under GROUP/LAYER; a layer of
// the outer model is its own group.
static Status note_classes(json_t *classes, const json_t *config, const char *group, int depth) {
  const json_t *layers = json_object_get(json_object_get(config, "config"), "layers");
  if (depth > MAX_MODEL_DEPTH) return STATUS_OK; // parse.c refuses such models
  for (size_t i = 0; i < json_array_size(layers); i++) {
    const json_t *layer = json_array_get(layers, i);
    const char *class_name = json_string_value(json_object_get(layer, "class_name"));
    const char *name = json_string_value(json_object_get(json_object_get(layer, "config"), "name"));
    if (!class_name || !name) continue;
    char *key;
    const char *own_group = group ? group : name;
    TRY(memory_print_string(&key, "%s/%s", own_group, name));
    int failed = json_object_set_new(
        classes, key, json_pack("[s,I]", class_name, (json_int_t)json_object_size(classes)));
    memory_free(key);
    if (failed) return status_set(STATUS_OS, "no memory for a model's layers");
    TRY(note_classes(classes, layer, own_group, depth + 1));
  }
  return STATUS_OK;
}

static int compare_ranks(const void *a, const void *b) {
  const SourceLayer *x = a, *y = b;
  return (x->rank > y->rank) - (x->rank < y->rank);
}

// Kinds and order of the layers from the configuration, where it knows them all.
static Status use_classes(Listing *listing) {
  Source *source = listing->source;
  bool all = true;
  for (int i = 0; i < source->count; i++) {
    SourceLayer *layer = &source->layers[i];
    char *key;
    TRY(memory_print_string(&key, "%s/%s", layer->group, layer->name));
    const json_t *entry = json_object_get(listing->classes, key);
    memory_free(key);
    if (entry) {
      layer->kind = kind_of_class(json_string_value(json_array_get(entry, 0)));
      layer->rank = json_integer_value(json_array_get(entry, 1));
    } else {
      layer->kind = kind_of_arrays(layer);
      all = false;
    }
  }
  if (all && source->count > 0)
    qsort(source->layers, (size_t)source->count, sizeof *source->layers, compare_ranks);
  return STATUS_OK;
}

static Status list_named(Source *source, const H5File *file, KerasFileKind kind,
                         const json_t *config) {
  Status status = STATUS_OK;
  bool is_model = kind == KERAS_FILE_MODEL;
  Listing listing = {.source = source, .file = file};
  H5Strings groups = {0};
  GUARD(h5_read_strings(&groups, file, is_model ? "model_weights" : "", "layer_names"));
  listing.classes = json_object();
  if (config) GUARD(note_classes(listing.classes, config, NULL, 0));
  for (int64_t i = 0; i < groups.count; i++)
    GUARD(add_group(&listing, is_model ? "model_weights/" : "", groups.items[i]));
  GUARD(use_classes(&listing));
out:
  json_decref(listing.classes);
  h5_strings_free(&groups);
  return status;
}

// --- Keras 3's store -----------------------------------------------------------------------------

// "conv2d_12" is the class "conv2d" and the number 12.
static void split_number(const char *name, char *class_name, size_t capacity, long *number) {
  (void)snprintf(class_name, capacity, "%s", name);
  *number = 0;
  char *underscore = strrchr(class_name, '_');
  if (!underscore || underscore[1] < '0' || underscore[1] > '9') return;
  *number = strtol(underscore + 1, NULL, 10);
  *underscore = '\0';
}

static LayerKind kind_of_store_class(const char *class_name) {
  static const struct {
    const char *name;
    LayerKind kind;
  } names[] = {{"conv2d", LAYER_CONV2D},
               {"depthwise_conv2d", LAYER_DEPTHWISE_CONV2D},
               {"separable_conv2d", LAYER_SEPARABLE_CONV2D},
               {"dense", LAYER_DENSE},
               {"batch_normalization", LAYER_BATCH_NORMALIZATION},
               {"group_normalization", LAYER_GROUP_NORMALIZATION},
               {"normalization", LAYER_NORMALIZATION}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(class_name, names[i].name) == 0) return names[i].kind;
  return LAYER_KIND_COUNT;
}

// Adds the layer whose arrays are PATH/vars/0, 1, ... Keras 3 keeps its name as an attribute.
static Status add_stored(Source *source, const H5File *file, const char *path) {
  Status status = STATUS_OK;
  char *vars = NULL, *name = NULL;
  const char *own_name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  GUARD(memory_print_string(&vars, "%s/vars", path));
  if (h5_has_attribute(file, vars, "name")) GUARD(h5_read_string(&name, file, vars, "name"));
  SourceLayer *layer = NULL;
  for (int i = 0;; i++) {
    char *array;
    GUARD(memory_print_string(&array, "%s/%d", vars, i));
    if (h5_kind(file, array) != H5_KIND_ARRAY) {
      memory_free(array);
      break;
    }
    status = layer ? STATUS_OK : find_or_add(&layer, source, path, name ? name : own_name);
    if (status != STATUS_OK) {
      memory_free(array);
      goto out;
    }
    GUARD(add_array(layer, file, array, NULL));
  }
  if (layer) {
    char class_name[256];
    long number;
    split_number(own_name, class_name, sizeof class_name, &number);
    layer->kind = kind_of_store_class(class_name);
  }
out:
  memory_free(name);
  memory_free(vars);
  return status;
}

typedef struct StoreMember {
  const char *name;
  bool is_model; // before its sibling layers, as a backbone stands before the head
  char class_name[256];
  long number;
} StoreMember;

static int compare_members(const void *a, const void *b) {
  const StoreMember *x = a, *y = b;
  if (x->is_model != y->is_model) return x->is_model ? -1 : 1;
  int by_class = strcmp(x->class_name, y->class_name);
  if (by_class != 0) return by_class;
  return (x->number > y->number) - (x->number < y->number);
}

static Status list_store(Source *source, const H5File *file, const char *path, int depth);

static Status list_members(Source *source, const H5File *file, const char *path, int depth) {
  Status status = STATUS_OK;
  H5Strings names = {0};
  StoreMember *members = NULL;
  char *child = NULL;
  GUARD(h5_list(&names, file, path));
  GUARD(memory_alloc(&members, (size_t)names.count, sizeof *members));
  for (int64_t i = 0; i < names.count; i++) {
    StoreMember *member = &members[i];
    member->name = names.items[i];
    split_number(member->name, member->class_name, sizeof member->class_name, &member->number);
    GUARD(memory_print_string(&child, "%s/%s/layers", path, member->name));
    member->is_model = h5_kind(file, child) == H5_KIND_GROUP;
    memory_free(child);
    child = NULL;
  }
  if (names.count > 0) qsort(members, (size_t)names.count, sizeof *members, compare_members);
  for (int64_t i = 0; i < names.count; i++) {
    GUARD(memory_print_string(&child, "%s/%s", path, members[i].name));
    if (h5_kind(file, child) == H5_KIND_GROUP) GUARD(list_store(source, file, child, depth + 1));
    memory_free(child);
    child = NULL;
  }
out:
  memory_free(child);
  memory_free(members);
  h5_strings_free(&names);
  return status;
}

// A model or a layer: its own variables, then its layers.
static Status list_store(Source *source, const H5File *file, const char *path, int depth) {
  static const char *const containers[] = {"layers", "_layer_checkpoint_dependencies"};
  if (depth > MAX_MODEL_DEPTH)
    return status_set(STATUS_DATA, "%s: models nested deeper than %d", h5_name(file),
                      MAX_MODEL_DEPTH);
  if (*path) TRY(add_stored(source, file, path));
  for (size_t i = 0; i < sizeof containers / sizeof *containers; i++) {
    char *members;
    TRY(memory_print_string(&members, "%s%s%s", path, *path ? "/" : "", containers[i]));
    Status status = STATUS_OK;
    if (h5_kind(file, members) == H5_KIND_GROUP)
      status = list_members(source, file, members, depth);
    memory_free(members);
    TRY(status);
  }
  return STATUS_OK;
}

Status keras__source_create(Source **out, const H5File *file, KerasFileKind kind,
                            const json_t *config) {
  Source *source;
  *out = NULL;
  TRY(memory_alloc(&source, 1, sizeof *source));
  Status status = kind == KERAS_FILE_WEIGHTS_STORE ? list_store(source, file, "", 0)
                                                   : list_named(source, file, kind, config);
  if (status != STATUS_OK) {
    keras__source_free(source);
    return status;
  }
  for (int i = 1; i < source->count; i++)
    source->layers[i].first_array =
        source->layers[i - 1].first_array + source->layers[i - 1].array_count;
  *out = source;
  return STATUS_OK;
}
