"""Keras' own backbones as oracles: keras.applications, for the names whose graph is Keras' and for
those of the hub where Keras draws the same one."""
import math
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../keras"))
from h5_common import import_keras

keras = import_keras("k3")
import numpy as np
import tensorflow as tf

A = keras.applications


def signed(x):
    return 2 * x - 1


def bytes_of(x):
    """For models that rescale inside."""
    return 255 * x


def imagenet_of_bytes(x):
    """For a model that divides by 255, then normalizes with statistics that only its public weights
    bring: by ImageNet's."""
    return 255 * (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def caffe(x):
    return 255 * x - np.array([123.68, 116.779, 103.939])


def slim_v3(builder):
    """Keras' MobileNetV3 up to the convolution behind the pool: the hub's graph."""
    def build(input_shape, alpha=1.0, **_):
        whole = builder(input_shape=input_shape, alpha=alpha, weights=None)
        index = [layer.name for layer in whole.layers].index("conv_2")
        return keras.Model(whole.input, keras.layers.Flatten()(whole.layers[index + 1].output))
    return build


def same_pools(builder):
    """Keras' NASNet with TF-Slim's reductions: pools SAME where Keras pads with zeros by hand.
    (timm's NASNet counts the padding in these averages, as TensorFlow's SAME does not.)"""
    def build(input_shape, **options):
        model = builder(input_shape=input_shape, **options)

        def call(layer, *arguments, **more):
            if layer.name.startswith("reduction_pad_"):
                return arguments[0]
            if "Pooling2D" in type(layer).__name__ and layer.name.startswith("reduction_"):
                config = layer.get_config() | {"padding": "same"}
                return type(layer).from_config(config)(*arguments, **more)
            return layer(*arguments, **more)
        return keras.models.clone_model(model, call_function=call)
    return build


# name: (Keras' builder, its options, what makes its inputs of an image in [0, 1])
ROWS = {
    "mobilenet_v2_100_224": (A.MobileNetV2, {"alpha": 1.0}, signed),
    "mobilenet_v2_130_224": (A.MobileNetV2, {"alpha": 1.3}, signed),
    "mobilenet_v2_140_224": (A.MobileNetV2, {"alpha": 1.4}, signed),
    "mobilenet_v3_small_100_224": (slim_v3(A.MobileNetV3Small), {"alpha": 1.0}, bytes_of),
    "mobilenet_v3_small_075_224": (slim_v3(A.MobileNetV3Small), {"alpha": 0.75}, bytes_of),
    "mobilenet_v3_large_100_224": (slim_v3(A.MobileNetV3Large), {"alpha": 1.0}, bytes_of),
    "mobilenet_v3_large_075_224": (slim_v3(A.MobileNetV3Large), {"alpha": 0.75}, bytes_of),
    "MobileNetV3Small": (A.MobileNetV3Small, {}, bytes_of),
    "MobileNetV3Large": (A.MobileNetV3Large, {}, bytes_of),
    "ResNet50": (A.ResNet50, {}, caffe),
    "ResNet101": (A.ResNet101, {}, caffe),
    "ResNet152": (A.ResNet152, {}, caffe),
    "ResNet50V2": (A.ResNet50V2, {}, signed),
    "ResNet101V2": (A.ResNet101V2, {}, signed),
    "ResNet152V2": (A.ResNet152V2, {}, signed),
    "InceptionV3": (A.InceptionV3, {}, signed),
    "InceptionResNetV2": (A.InceptionResNetV2, {}, signed),
    "EfficientNetB0": (A.EfficientNetB0, {}, imagenet_of_bytes),
    "EfficientNetB1": (A.EfficientNetB1, {}, imagenet_of_bytes),
    "EfficientNetB2": (A.EfficientNetB2, {}, imagenet_of_bytes),
    "EfficientNetB3": (A.EfficientNetB3, {}, imagenet_of_bytes),
    "EfficientNetB4": (A.EfficientNetB4, {}, imagenet_of_bytes),
    "EfficientNetB5": (A.EfficientNetB5, {}, imagenet_of_bytes),
    "EfficientNetB6": (A.EfficientNetB6, {}, imagenet_of_bytes),
    "EfficientNetB7": (A.EfficientNetB7, {}, imagenet_of_bytes),
    "EfficientNetV2B0": (A.EfficientNetV2B0, {}, bytes_of),
    "EfficientNetV2B1": (A.EfficientNetV2B1, {}, bytes_of),
    "EfficientNetV2B2": (A.EfficientNetV2B2, {}, bytes_of),
    "EfficientNetV2B3": (A.EfficientNetV2B3, {}, bytes_of),
    "EfficientNetV2S": (A.EfficientNetV2S, {}, bytes_of),
    "EfficientNetV2M": (A.EfficientNetV2M, {}, bytes_of),
    "EfficientNetV2L": (A.EfficientNetV2L, {}, bytes_of),
    "NASNetMobile": (A.NASNetMobile, {}, signed),
    "NASNetLarge": (A.NASNetLarge, {}, signed),
    "nasnet_mobile": (same_pools(A.NASNetMobile), {}, signed),
    "nasnet_large": (same_pools(A.NASNetLarge), {}, signed),
}
KINDS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "BatchNormalization")
MADE = ("conv2d", "depthwise_conv2d", "separable_conv2d", "batch_normalization")


def number(layer):
    """Of a name that Keras made: conv2d, conv2d_1, ...; a name of another kind comes last."""
    tail = layer.name.rsplit("_", 1)[-1]
    if tail.isdigit():
        return int(tail)
    return 0 if layer.name in MADE else math.inf


class Oracle:
    """One backbone for images of a size, with parameters by our paths."""

    def __init__(self, name, parameters, side, dtype):
        build, options, self.prepare = ROWS[name]
        keras.backend.clear_session()
        keras.config.set_dtype_policy(dtype)
        self.dtype = dtype
        self.model = build(include_top=False, weights=None, pooling="avg",
                           input_shape=(side, side, 3), **options)
        keras.config.set_dtype_policy("float32")
        for layer in self.model.layers:
            if type(layer).__name__ == "Dropout":
                layer.rate = 0
        self.variables = self.match(parameters)

    def match(self, parameters):
        """{path: variable}: layers of one name belong together, the others by kind in order."""
        layers = [x for x in self.model.layers if type(x).__name__ in KINDS]
        names = list(dict.fromkeys(p.layer for p in parameters))
        kinds = {p.layer: p.kind for p in parameters}
        found = {x.name: x for x in layers if x.name in kinds}
        for kind in KINDS:
            rest = [x for x in layers if type(x).__name__ == kind and x.name not in kinds]
            nameless = [n for n in names if n not in found and kinds[n] == kind]
            assert len(rest) == len(nameless), (kind, len(rest), len(nameless))
            found |= zip(nameless, sorted(rest, key=number))
        variables = {}
        for name, layer in found.items():
            ours = [p for p in parameters if p.layer == name]
            assert len(ours) == len(layer.weights), (name, layer.name)
            variables |= zip((p.path for p in ours), layer.weights)
        return variables

    def run(self, values, images, head, labels, training):
        """(features, {what: gradient of the loss}), what being a path, "images" or a part of the
        head, which is a kernel and a bias."""
        for path, variable in self.variables.items():
            variable.assign(values[path])
        inputs = {"images": tf.Variable(images, dtype=self.dtype)}
        inputs |= {path: tf.Variable(value, dtype=self.dtype) for path, value in head.items()}
        with tf.GradientTape() as tape:
            features = self.model(self.prepare(inputs["images"]), training=training)
            logits = features @ inputs["logits/kernel"] + inputs["logits/bias"]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        trained = {path: v.value for path, v in self.variables.items() if v.trainable}
        gradients = tape.gradient(loss, inputs | trained)
        return features.numpy(), {what: g.numpy() for what, g in gradients.items()}
