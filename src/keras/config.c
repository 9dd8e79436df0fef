// Keras' configuration of each kind of layer: the least that Keras 2 and Keras 3 both accept.
// net.c is the caller.
//
// Keras 3 refuses options it does not know and Keras 2 fills in what is absent, so an option is
// written only where both have it or where it differs from its default.
#include <string.h>

#include "keras/keras_internal.h"

// Adds `value` (taken over, may be NULL when memory is short) to `config`; NULL stays NULL.
static json_t *with(json_t *config, const char *key, json_t *value) {
  if (config && value && json_object_set_new(config, key, value) == 0) return config;
  json_decref(config);
  return NULL;
}

static json_t *with_regularizer(json_t *config, const char *key, double l2) {
  if (l2 == 0) return config;
  return with(config, key, json_pack("{s:s, s:{s:f}}", "class_name", "L2", "config", "l2", l2));
}

static const char *padding_name(Padding padding) {
  return padding == PADDING_SAME ? "same" : "valid";
}

static json_t *input_config(const Layer *layer) {
  json_t *shape = json_pack("[n]");
  for (int i = 0; shape && i < layer->shape.rank; i++)
    if (json_array_append_new(shape, json_integer(layer->shape.dim[i])) != 0) {
      json_decref(shape);
      shape = NULL;
    }
  return json_pack("{s:o, s:s}", "batch_input_shape", shape, "dtype", "float32");
}

static json_t *convolution_config(const Layer *layer, bool depthwise) {
  const Conv2dDesc *desc = &layer->conv2d;
  json_t *config = json_pack("{s:[ii], s:[ii], s:s, s:b}", "kernel_size", desc->kernel_h,
                             desc->kernel_w, "strides", desc->stride_h, desc->stride_w, "padding",
                             padding_name(desc->padding), "use_bias", (int)desc->use_bias);
  if (desc->dilation > 1)
    config = with(config, "dilation_rate", json_pack("[ii]", desc->dilation, desc->dilation));
  if (depthwise) return with_regularizer(config, "depthwise_regularizer", desc->l2);
  if (desc->groups > 1) config = with(config, "groups", json_integer(desc->groups));
  config = with(config, "filters", json_integer(desc->filters));
  config = with(config, "activation", json_string("linear"));
  return with_regularizer(config, "kernel_regularizer", desc->l2);
}

static json_t *separable_config(const Layer *layer) {
  const Conv2dDesc *desc = &layer->conv2d;
  json_t *config =
      json_pack("{s:[ii], s:[ii], s:s, s:b, s:I}", "kernel_size", desc->kernel_h, desc->kernel_w,
                "strides", desc->stride_h, desc->stride_w, "padding", padding_name(desc->padding),
                "use_bias", (int)desc->use_bias, "filters", (json_int_t)desc->filters);
  if (desc->dilation > 1)
    config = with(config, "dilation_rate", json_pack("[ii]", desc->dilation, desc->dilation));
  config = with_regularizer(config, "depthwise_regularizer", desc->l2);
  return with_regularizer(config, "pointwise_regularizer", desc->l2);
}

static json_t *dense_config(const Layer *layer) {
  const DenseDesc *desc = &layer->dense;
  json_t *config =
      json_pack("{s:I, s:b}", "units", (json_int_t)desc->units, "use_bias", (int)!desc->no_bias);
  return with_regularizer(config, "kernel_regularizer", desc->l2);
}

static json_t *batch_normalization_config(const Layer *layer) {
  const BatchNormDesc *desc = &layer->batch_norm;
  return json_pack("{s:i, s:f, s:f, s:b, s:b}", "axis", layer->shape.rank, "momentum",
                   desc->momentum, "epsilon", desc->epsilon, "center", (int)!desc->no_center,
                   "scale", (int)!desc->no_scale);
}

static json_t *group_normalization_config(const Layer *layer) {
  const GroupNormDesc *desc = &layer->group_norm;
  return json_pack("{s:i, s:i, s:f, s:b, s:b}", "groups", desc->groups, "axis", layer->shape.rank,
                   "epsilon", desc->epsilon, "center", (int)!desc->no_center, "scale",
                   (int)!desc->no_scale);
}

// One value for all channels is a number, else a list.
static json_t *channel_values(const double *values, int count) {
  if (count == 1) return json_real(values[0]);
  json_t *list = json_array();
  for (int i = 0; list && i < count; i++)
    if (json_array_append_new(list, json_real(values[i])) != 0) {
      json_decref(list);
      return NULL;
    }
  return list;
}

static json_t *rescaling_config(const Layer *layer) {
  const RescalingDesc *desc = &layer->rescaling;
  return json_pack("{s:o, s:o}", "scale", channel_values(desc->scale, desc->count), "offset",
                   channel_values(desc->offset, desc->count));
}

static json_t *dropout_config(const Layer *layer) {
  json_t *config = json_pack("{s:f}", "rate", layer->dropout.rate);
  if (!layer->dropout.per_sample) return config;
  json_t *noise = json_pack("[n]");
  for (int i = 0; noise && i < layer->shape.rank; i++)
    if (json_array_append_new(noise, json_integer(1)) != 0) {
      json_decref(noise);
      noise = NULL;
    }
  return with(config, "noise_shape", noise);
}

static json_t *pool_config(const Layer *layer) {
  const PoolDesc *desc = &layer->pool;
  return json_pack("{s:[ii], s:[ii], s:s}", "pool_size", desc->size_h, desc->size_w, "strides",
                   desc->stride_h, desc->stride_w, "padding", padding_name(desc->padding));
}

static json_t *edges_config(const Layer *layer, const char *key) {
  const Pads *pads = &layer->pads;
  return json_pack("{s:[[ii][ii]]}", key, pads->top, pads->bottom, pads->left, pads->right);
}

static json_t *reshape_config(const Layer *layer) {
  json_t *shape = json_array();
  for (int i = 0; shape && i < layer->shape.rank; i++)
    if (json_array_append_new(shape, json_integer(layer->shape.dim[i])) != 0) {
      json_decref(shape);
      shape = NULL;
    }
  return json_pack("{s:o}", "target_shape", shape);
}

static json_t *options(const Layer *layer) {
  switch (layer->kind) {
  case LAYER_INPUT:
    return input_config(layer);
  case LAYER_CONV2D:
    return convolution_config(layer, false);
  case LAYER_DEPTHWISE_CONV2D:
    return convolution_config(layer, true);
  case LAYER_SEPARABLE_CONV2D:
    return separable_config(layer);
  case LAYER_DENSE:
    return dense_config(layer);
  case LAYER_BATCH_NORMALIZATION:
    return batch_normalization_config(layer);
  case LAYER_GROUP_NORMALIZATION:
    return group_normalization_config(layer);
  case LAYER_ACTIVATION:
    return json_pack("{s:s}", "activation", activation_name(layer->activation));
  case LAYER_RELU:
    return layer->relu_max_value > 0 ? json_pack("{s:f}", "max_value", layer->relu_max_value)
                                     : json_pack("{s:n}", "max_value");
  case LAYER_CONCATENATE:
    return json_pack("{s:i}", "axis", layer->shape.rank);
  case LAYER_RESCALING:
  case LAYER_NORMALIZATION:
    return rescaling_config(layer);
  case LAYER_DROPOUT:
    return dropout_config(layer);
  case LAYER_ZERO_PADDING2D:
    return edges_config(layer, "padding");
  case LAYER_CROPPING2D:
    return edges_config(layer, "cropping");
  case LAYER_MAX_POOLING2D:
  case LAYER_AVERAGE_POOLING2D:
    return pool_config(layer);
  case LAYER_GLOBAL_AVERAGE_POOLING2D:
    return layer->keep_dims ? json_pack("{s:b}", "keepdims", 1) : json_object();
  case LAYER_RESHAPE:
    return reshape_config(layer);
  case LAYER_ADD:
  case LAYER_MULTIPLY:
  case LAYER_FLATTEN:
  case LAYER_KIND_COUNT:
    break;
  }
  return json_object();
}

json_t *keras__layer_config(const Layer *layer, const char *name) {
  json_t *config = with(options(layer), "name", json_string(name));
  if (!layer->trainable && layer->kind != LAYER_INPUT)
    config = with(config, "trainable", json_false());
  return config;
}
