"""TF-Slim's backbones as oracles: the hub's ResNets and Inception v3, as the package tf-slim draws
them."""
import os
import re
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"
try:
    import numpy as np
    import tensorflow as tf
    import tf_slim as slim
    from tensorflow.python.framework import ops
    from tf_slim.nets import inception_v3, resnet_v1, resnet_v2
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

tf1 = tf.compat.v1
ops.Tensor = tf.Tensor  # where TF-Slim looks for it; TensorFlow has moved it


def resnet(build):
    return lambda images, training: build(images, num_classes=None, is_training=training)[0]


def inception(images, training):
    with slim.arg_scope([slim.batch_norm], is_training=training):
        return tf.reduce_mean(inception_v3.inception_v3_base(images)[0], [1, 2])


# From our path of a parameter to the name of TF-Slim's variable. None: by role in order.

ROLES = {"kernel": "weights", "bias": "biases"}


def resnet_variable(path):
    layer, role = path.split("/")
    role = ROLES.get(role, role)
    stem = {"conv1_conv": "conv1/", "conv1_bn": "conv1/BatchNorm/", "post_bn": "postnorm/"}
    if layer in stem:
        return stem[layer] + role
    stage, block, what = re.fullmatch(r"conv(\d)_block(\d+)_(\w+)", layer).groups()
    part = {"0_conv": "shortcut/", "0_bn": "shortcut/BatchNorm/", "preact_bn": "preact/"}
    part |= {f"{i}_conv": f"conv{i}/" for i in (1, 2, 3)}
    part |= {f"{i}_bn": f"conv{i}/BatchNorm/" for i in (1, 2, 3)}
    return f"block{int(stage) - 1}/unit_{block}/bottleneck/{part[what]}{role}"


# name: (TF-Slim's builder, its arg scope, from our paths to its variables); inputs in [-1, 1]
ROWS = {
    "resnet_v1_50": (resnet(resnet_v1.resnet_v1_50), resnet_v1.resnet_arg_scope, resnet_variable),
    "resnet_v1_101": (resnet(resnet_v1.resnet_v1_101), resnet_v1.resnet_arg_scope,
                      resnet_variable),
    "resnet_v1_152": (resnet(resnet_v1.resnet_v1_152), resnet_v1.resnet_arg_scope,
                      resnet_variable),
    "resnet_v2_50": (resnet(resnet_v2.resnet_v2_50), resnet_v2.resnet_arg_scope, resnet_variable),
    "resnet_v2_101": (resnet(resnet_v2.resnet_v2_101), resnet_v2.resnet_arg_scope,
                      resnet_variable),
    "resnet_v2_152": (resnet(resnet_v2.resnet_v2_152), resnet_v2.resnet_arg_scope,
                      resnet_variable),
    "inception_v3": (inception, inception_v3.inception_v3_arg_scope, None),
}


def plain_norms(scope):
    """TF-Slim's default batch norms are layers of a Keras that TensorFlow has no more: with updates
    in a collection of their own, and not fused, its own sums are used instead."""
    def plain(options):
        return options | {"updates_collections": "statistics", "fused": False}
    changed = {}
    for operation, options in scope.items():
        if "normalizer_params" in options:
            options = options | {"normalizer_params": plain(options["normalizer_params"])}
        changed[operation] = plain(options) if "updates_collections" in options else options
    return changed


class Oracle:
    """One backbone for images of a size, with parameters by our paths."""

    def __init__(self, name, parameters, side, dtype):
        self.row, self.parameters, self.side, self.dtype = ROWS[name], parameters, side, dtype

    def match(self, variables):
        """{path: variable}"""
        rename = self.row[2]
        if rename:
            names = {re.sub(r"^resnet_v\d_\d+/|:0$", "", v.name).replace("bottleneck_v1/",
                     "bottleneck/").replace("bottleneck_v2/", "bottleneck/"): v for v in variables}
            found = {p.path: names[rename(p.path)] for p in self.parameters}
        else:
            found = {}
            for role in dict.fromkeys(p.role for p in self.parameters):
                suffix = f"/{ROLES.get(role, role)}:0"
                theirs = [v for v in variables if v.name.endswith(suffix)]
                ours = [p.path for p in self.parameters if p.role == role]
                assert len(ours) == len(theirs), (role, len(ours), len(theirs))
                found |= zip(ours, theirs)
        assert len(variables) == len(found), (len(variables), len(found))
        return found

    def run(self, values, images, head, labels, training):
        """(features, {what: gradient of the loss}), what being a path, "images" or a part of the
        head, which is a kernel and a bias."""
        build, scope, _ = self.row
        with tf.Graph().as_default(), tf1.Session() as session:
            inputs = {what: tf1.placeholder(self.dtype, array.shape)
                      for what, array in ({"images": images} | head).items()}
            with slim.arg_scope(plain_norms(scope())):
                features = build(2 * inputs["images"] - 1, training)
            features = tf.reshape(features, [len(images), -1])
            logits = features @ inputs["logits/kernel"] + inputs["logits/bias"]
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            variables = self.match(tf1.global_variables())
            trained = {p.path: variables[p.path] for p in self.parameters
                       if not p.role.startswith("moving_")}
            wanted = inputs | trained
            gradients = dict(zip(wanted, tf1.gradients(loss, list(wanted.values()))))
            feed = {inputs[what]: array for what, array in ({"images": images} | head).items()}
            # At once: each run of a session looks at all of the graph.
            session.run([variable.initializer for variable in variables.values()],
                        {variable.initializer.inputs[1]: values[path]
                         for path, variable in variables.items()})
            return session.run((features, gradients), feed)
