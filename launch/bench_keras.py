#!/usr/bin/env python3
"""The training steps of Keras on TensorFlow, timed as `imgcls bench` times ours. Run by
launch/bench_peers.py.

fp32, keras.applications' models, SGD with momentum, the whole step one tf.function; with --compile
through XLA. A step takes the uint8 pixels of a batch that is already in memory.
"""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

import bench_peer

MODELS = {
    "ResNet50": keras.applications.ResNet50,
    "mobilenet_v2_100_224": keras.applications.MobileNetV2,
    "efficientnet_b0": keras.applications.EfficientNetB0,
}


def main():
    args = bench_peer.parse_arguments(__doc__, MODELS)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    keras.utils.set_random_seed(bench_peer.BATCH_SEED)
    shape = (args.image_size, args.image_size, 3)
    model = MODELS[args.model](weights=None, input_shape=shape, classes=args.classes,
                               classifier_activation=None)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # keras.applications' EfficientNet scales its input itself.
    scaled = args.model.startswith("efficientnet")
    pixels = tf.cast(tf.random.uniform((args.batch, *shape), 0, 256, tf.int32), tf.uint8)
    labels = tf.random.uniform((args.batch,), 0, args.classes, tf.int32)

    @tf.function(jit_compile=args.compile)
    def train(pixels, labels):
        images = tf.cast(pixels, tf.float32)
        if not scaled:
            images = images / 127.5 - 1.0
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    bench_peer.serve(args, {"program": "keras", "version": f"{keras.__version__} on TensorFlow "
                                                           f"{tf.__version__}",
                            "parameters": model.count_params()},
                     lambda: (float(train(pixels, labels)), {}))


if __name__ == "__main__":
    main()
