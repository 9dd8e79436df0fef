// The key table. See keys.h.
//
// KEY derives a row's type from the field it fills, so a row cannot disagree with its struct. A new
// key is a field in config.h and a row here; docs/config.md and imgcls-train.ini(5) follow from
// `cmake --build build/cpu --target config_docs`.
#include "config/keys.h"

#include <string.h>

#include "config/config.h"

// Enums are stored as ints by the parser.
_Static_assert(sizeof(ConfigChoice) == sizeof(int), "enums have the size of int");

#define FIELD_TYPE(field)                                                                          \
  _Generic(((const Config *)0)->field,                                                             \
      bool: KEY_BOOL,                                                                              \
      int64_t: KEY_INT,                                                                            \
      double: KEY_REAL,                                                                            \
      ConfigRange: KEY_RANGE,                                                                      \
      char *: KEY_STRING,                                                                          \
      ConfigStrings: KEY_STRINGS,                                                                  \
      ConfigNumbers: KEY_NUMBERS,                                                                  \
      default: KEY_CHOICE)
#define KEY_OF(type_, section_, name_, fallback_, ...)                                             \
  {                                                                                                \
    .section = #section_, .name = #name_, .type = type_,                                           \
    .offset = offsetof(Config, section_.name_), .fallback = fallback_, __VA_ARGS__                 \
  }
#define KEY(section_, name_, fallback_, ...)                                                       \
  KEY_OF(FIELD_TYPE(section_.name_), section_, name_, fallback_, __VA_ARGS__)
#define KEY_SIZE(section_, name_, fallback_, ...)                                                  \
  KEY_OF(KEY_BYTES, section_, name_, fallback_, __VA_ARGS__)
#define RANGE(min_, max_) .min = min_, .max = max_
#define WORD(word_, value_) .word = word_, .word_value = value_
#define CHOICES(...)                                                                               \
  .choices = (const char *const[]) {                                                               \
    __VA_ARGS__, NULL                                                                              \
  }
#define HASHED .flags = KEY_HASHED
#define HELP(...) .help = __VA_ARGS__

#define GIB (1024.0 * 1024.0 * 1024.0)
#define MAX_SEED 4294967295.0 // what numpy's RandomState takes

static const ConfigSection SECTIONS[] = {
    {"model", "The network: a backbone, dropout and a dense layer with a class per folder."},
    {"data", "The images, how they are split, read and limited."},
    {"augment", "Random changes of the training images, with the names and meanings of Keras' "
                "preprocessing layers: rotation, translation, zoom and flip, in this order, as one "
                "resampling. They depend on the seed, the epoch and the image alone."},
    {"train", "The batches, the loss and how exact the run is."},
    {"optimizer", "The update of the weights."},
    {"schedule", "The learning rate over the epochs."},
    {"checkpoint", "What is saved when, and where a run continues."},
    {"run", "Where and on what a run takes place."},
    {"log", "What a run says."},
};

static const ConfigKey KEYS[] = {
    // --- model ---
    KEY(model, backbone, "mobilenet_v2_100_224", HASHED,
        HELP("The network's body; `imgcls models` lists the names.")),
    KEY(model, image_size, "0", RANGE(0, 4096), HASHED,
        HELP("Height and width of the images in pixels. 0: the backbone's own.")),
    KEY(model, weights, "",
        HELP(
            "A file whose weights the backbone starts from (the head too where it fits): an .h5 of "
            "Keras or imgcls, or torch's as .safetensors or .h5 (docs/weights.md). Empty: random "
            "weights.")),
    KEY(model, fine_tune, "yes", HASHED,
        HELP("Train the backbone too. With no, only the head learns.")),
    KEY(model, dropout, "0.2", RANGE(0, 0.999), HASHED,
        HELP("Rate of the dropout between backbone and head.")),
    KEY(model, l2, "0.0001", RANGE(0, 1000), HASHED,
        HELP("Factor f of the penalty f * sum(W^2) on the head's kernel, part of the loss as in "
             "Keras.")),
    KEY(model, batch_norm_momentum, "graph", RANGE(0, 1), WORD("graph", CONFIG_FROM_GRAPH), HASHED,
        HELP("Momentum of the moving averages of every BatchNormalization.")),
    KEY(model, batch_norm_epsilon, "graph", RANGE(1e-12, 1), WORD("graph", CONFIG_FROM_GRAPH),
        HASHED, HELP("Epsilon of every BatchNormalization.")),
    KEY(model, stochastic_depth, "graph", RANGE(0, 0.999), WORD("graph", CONFIG_FROM_GRAPH), HASHED,
        HELP(
            "Drop rate of the last residual block, growing linearly from 0 at the first one, where "
            "the backbone has stochastic depth.")),
    // --- data ---
    KEY(data, dir, "", .flags = KEY_REQUIRED,
        HELP("A folder with one folder of images per class, or a file of `imgcls data pack`.")),
    KEY(data, test_dir, "",
        HELP("Images for a last evaluation with the final weights, as folder or packed file. "
             "Empty: none.")),
    KEY(data, validation_split, "0.1", RANGE(0, 0.9), HASHED,
        HELP("The part of dir that validates and never trains, chosen as by Keras' "
             "image_dataset_from_directory.")),
    KEY(data, seed, "123", RANGE(0, MAX_SEED), HASHED, HELP("Seed of the split.")),
    KEY(data, class_names, "", HASHED,
        HELP("The classes in the order of their labels, separated by commas. Empty: the folders' "
             "names, sorted.")),
    KEY(data, compat, "fixed", CHOICES("fixed", "keras"), HASHED,
        HELP(
            "keras repeats the quirks of the Keras tutorial: shuffling within 8 images, validation "
            "on whole batches only. fixed shuffles everything and validates on every image once.")),
    KEY(data, antialias, "no", HASHED,
        HELP("Smooth images that are made smaller. TensorFlow's default is no.")),
    KEY(data, keep_aspect, "no", HASHED,
        HELP("Cut the centre to a square instead of squeezing the image to one.")),
    KEY(data, max_bad_fraction, "0.01", RANGE(0, 1),
        HELP("The run ends when more than this part of the files cannot be read. Each is named.")),
    KEY(data, max_pixels, "178956970", RANGE(1, 4294836225.0),
        HELP("Images with more pixels count as broken.")),
    KEY(data, max_side, "65500", RANGE(1, 65535),
        HELP("Images wider or higher than this, in pixels, count as broken.")),
    KEY_SIZE(data, max_file_size, "256 MiB", RANGE(1, 16 * GIB),
             HELP("Larger image files count as broken.")),
    KEY_SIZE(data, jpeg_memory, "256 MiB", RANGE(1048576, 16 * GIB),
             HELP("Most memory that decoding one JPEG may take.")),
    KEY(data, jpeg_scans, "100", RANGE(1, 100000),
        HELP("Progressive JPEGs with more scans count as broken.")),
    KEY(data, decode_deadline_s, "10", RANGE(0.001, 3600),
        HELP("Images that take longer to decode, in seconds of a thread's processor time, count as "
             "broken.")),
    KEY(data, follow_symlinks, "no", HELP("Read links to files and folders.")),
    KEY(data, loader_threads, "0", RANGE(0, 1024),
        HELP("Threads of each rank that read and decode images. 0: chosen from the cores.")),
    KEY(data, prefetch, "4", RANGE(1, 1024),
        HELP("Batches that the loader keeps ready ahead of the training step.")),
    KEY(data, cache_features, "auto", CHOICES("auto", "yes", "no"),
        HELP("With fine_tune = no and without augmentation, compute the backbone's features of "
             "every image once, keep them in memory (shared out over the ranks) and train the head "
             "on them. auto: where they fit in half of the memory and are used more than once.")),
    KEY(data, resident, "auto", CHOICES("auto", "yes", "no"),
        HELP("On a GPU, read every training image before the first step and keep all of them, "
             "resized, in its memory: steps then upload no pixels. No result changes. auto: where "
             "they fit beside the plan and are used more than once.")),
    // --- augment ---
    KEY(augment, enabled, "no", HASHED, HELP("Change the training images at random.")),
    KEY(augment, rotation, "0.1111", RANGE(-1000, 1000), HASHED,
        HELP("Angle as a fraction of a turn: f for [-f, f] or low,high; positive is "
             "counter-clockwise. 0.1111 is 40 degrees.")),
    KEY(augment, translation_height, "0.2", RANGE(-1, 1), HASHED,
        HELP("Shift down as a fraction of the height: f for [-f, f] or low,high.")),
    KEY(augment, translation_width, "0.2", RANGE(-1, 1), HASHED,
        HELP("Shift to the right as a fraction of the width: f for [-f, f] or low,high.")),
    KEY(augment, zoom_height, "0.2", RANGE(-0.99, 10), HASHED,
        HELP("Zoom of the height: f for [-f, f] or low,high; positive zooms out.")),
    KEY(augment, zoom_width, "0.2", RANGE(-0.99, 10), WORD("same", CONFIG_SAME_AS_HEIGHT), HASHED,
        HELP("Zoom of the width, drawn apart. same: the draw of the height, which keeps the aspect "
             "ratio.")),
    KEY(augment, flip, "horizontal",
        CHOICES("none", "horizontal", "vertical", "horizontal_and_vertical"), HASHED,
        HELP("Mirror every other image, at random.")),
    KEY(augment, fill_mode, "reflect", CHOICES("constant", "reflect", "wrap", "nearest"), HASHED,
        HELP("What is seen beyond the border of an image.")),
    KEY(augment, fill_value, "0", RANGE(0, 1), HASHED,
        HELP("The value of fill_mode = constant; 0 is black, 1 white.")),
    // --- train ---
    KEY(train, batch, "16", RANGE(1, 1048576), HASHED,
        HELP(
            "Images of one step, over all ranks: more ranks never change it. Where there are fewer "
            "training images, a step has all of them, scale_with_batch takes their number, and a "
            "warning says so.")),
    KEY(train, epochs, "5", RANGE(1, 1000000), HASHED, HELP("Passes over the training images.")),
    KEY(train, label_smoothing, "0.1", RANGE(0, 0.999), HASHED,
        HELP("s: the true class has the target 1 - s + s / classes, the others s / classes.")),
    KEY(train, seed, "0", RANGE(0, MAX_SEED), HASHED,
        HELP("Seed of weights, order, augmentation and dropout.")),
    KEY(train, virtual_workers, "0", RANGE(0, 65536), HASHED,
        HELP(
            "Equal parts of the batch, each with its own BatchNormalization statistics; the ranks "
            "share them out. 0: one per rank. With a fixed number, training does not depend on the "
            "number of ranks.")),
    KEY(train, reproducible, "no", HASHED,
        HELP(
            "Add gradients in a fixed order: bit for bit the same weights on every number of ranks "
            "that divides virtual_workers, at some cost in speed.")),
    KEY(train, precision, "auto", CHOICES("auto", "fp32", "bf16", "fp16"), HASHED,
        HELP(
            "Arithmetic of convolutions and products; weights and sums are always fp32. auto: bf16 "
            "where the processor multiplies it, else fp32. fp16: on CUDA devices only.")),
    KEY(train, loss_scale, "auto", RANGE(1, 0x1p126), WORD("auto", CONFIG_AUTOMATIC), HASHED,
        HELP(
            "Multiplies the loss before the backward pass, and divides the gradients in the "
            "update, so that small ones do not vanish in fp16. It is where dynamic scaling begins: "
            "a step whose gradients overflow is left out and halves it. auto: 32768 with fp16, "
            "else 1, which is no scaling.")),
    KEY(train, loss_scale_growth_steps, "2000", RANGE(0, 1e12), HASHED,
        HELP("Steps without overflow after which the loss scale is doubled. 0: never.")),
    KEY(train, micro_batch, "auto", RANGE(0, 1048576), WORD("auto", CONFIG_AUTOMATIC), HASHED,
        HELP("Most images that a rank computes at once. A batch with more is cut into more virtual "
             "workers, one after another, whose gradients are added: the same gradients, but "
             "BatchNormalization sees each part alone, so a number of virtual_workers that is set "
             "stays where the network has batch statistics. 0: a worker's images all at once. "
             "auto: as many as fit in run.memory_limit; a run that continues keeps its parts.")),
    KEY(train, recompute, "auto", CHOICES("auto", "yes", "no"),
        HELP("Keep the results of normalisations, activations and squeeze-and-excite blocks for "
             "the forward pass only and compute them once more in the backward pass, with the "
             "same bits: less memory for a little time. auto: where run.memory_limit asks for it, "
             "before the batch is cut.")),
    KEY(train, evaluate_every, "1", RANGE(0, 1000000),
        HELP("Epochs between evaluations on the validation images. 0: only after the last one.")),
    KEY(train, steps_per_epoch, "0", RANGE(0, 1e12), HASHED,
        HELP("Steps that count as an epoch. 0: as many as one pass over the training images has.")),
    // --- optimizer ---
    KEY(optimizer, name, "sgd", CHOICES("sgd"), HASHED, HELP("The rule of the update.")),
    KEY(optimizer, learning_rate, "0.005", RANGE(0, 1000), HASHED,
        HELP("The learning rate before the schedule's factors.")),
    KEY(optimizer, momentum, "0.9", RANGE(0, 1), HASHED,
        HELP("m in v = m * v - rate * gradient; weight += v.")),
    KEY(optimizer, nesterov, "no", HASHED, HELP("Nesterov's momentum as in Keras.")),
    KEY(optimizer, weight_decay, "0", RANGE(0, 1), HASHED,
        HELP("Decoupled as in Keras: weight -= weight * weight_decay * rate, for kernels only.")),
    KEY(optimizer, clip_norm, "0", RANGE(0, 1e9), HASHED,
        HELP("Scale all gradients down together when their norm is larger. 0: never.")),
    KEY(optimizer, use_ema, "no", HASHED,
        HELP("Keep an exponential moving average of the trained weights, as Keras' use_ema. It is "
             "what is evaluated and saved; the weights of the last step lie in the checkpoint "
             "beside it.")),
    KEY(optimizer, ema_momentum, "0.99", RANGE(0, 1), HASHED,
        HELP("m in average = m * average + (1 - m) * weight, after each step.")),
    // --- schedule ---
    KEY(schedule, name, "constant",
        CHOICES("constant", "step", "cosine", "polynomial", "exponential"), HASHED,
        HELP("How the learning rate goes on after the warm-up.")),
    KEY(schedule, warmup_epochs, "0", RANGE(0, 1000000), HASHED,
        HELP("Epochs in which the learning rate rises linearly; fractions are allowed.")),
    KEY(schedule, warmup_start, "0", RANGE(0, 1), HASHED,
        HELP("The factor that the warm-up starts from.")),
    KEY(schedule, step_epochs, "", RANGE(0, 1000000), HASHED,
        HELP("For step: the epochs, ascending and separated by commas, after which the learning "
             "rate is multiplied by step_factor.")),
    KEY(schedule, step_factor, "0.1", RANGE(0, 1), HASHED,
        HELP("For step: the factor of each step.")),
    KEY(schedule, end_factor, "0", RANGE(0, 1), HASHED,
        HELP("For cosine and polynomial: the factor at the end of the last epoch.")),
    KEY(schedule, power, "1", RANGE(0.01, 100), HASHED,
        HELP("For polynomial: the power; 1 is a straight line.")),
    KEY(schedule, decay_epochs, "1", RANGE(0.0001, 1000000), HASHED,
        HELP("For exponential: the epochs in which the learning rate falls by decay_rate.")),
    KEY(schedule, decay_rate, "0.97", RANGE(0, 1), HASHED,
        HELP("For exponential: the factor of decay_epochs, as Keras' ExponentialDecay.")),
    KEY(schedule, staircase, "no", HASHED,
        HELP("For exponential: fall at the end of each decay_epochs, not at every step.")),
    KEY(schedule, scale_with_batch, "none", CHOICES("none", "linear", "sqrt"), HASHED,
        HELP("Multiply the learning rate by batch / base_batch, or by its square root. The result "
             "is printed at the start.")),
    KEY(schedule, base_batch, "256", RANGE(1, 1048576), HASHED,
        HELP("The batch for which learning_rate was chosen, for scale_with_batch.")),
    // --- checkpoint ---
    KEY(checkpoint, every_epochs, "1", RANGE(0, 1000000),
        HELP("Save after every so many epochs. 0: not by epochs. The last epoch is always saved, and "
             "so is each that is the best so far.")),
    KEY(checkpoint, every_minutes, "0", RANGE(0, 1000000),
        HELP("Save also after so many minutes. 0: not by time.")),
    KEY(checkpoint, every_steps, "0", RANGE(0, 1e12),
        HELP("Save also after every so many steps. 0: not by steps.")),
    KEY(checkpoint, keep, "2", RANGE(2, 1000000),
        HELP("How many of the last checkpoints stay; the best one stays beside them.")),
    KEY(checkpoint, keep_every, "0", RANGE(0, 1000000),
        HELP("Checkpoints of every so many epochs stay for ever. 0: none.")),
    KEY(checkpoint, resume, "auto",
        HELP(
            "auto: continue from the newest valid checkpoint in run.output, or start when there is "
            "none. none: start afresh. Else the checkpoint to continue from.")),
    // --- run ---
    KEY(run, output, "",
        HELP(
            "Folder for checkpoints, history, curves and log. Empty: runs/NAME, NAME being the INI "
            "file's name without .ini.")),
    KEY(run, device, "auto", CHOICES("auto", "cpu", "cuda"),
        HELP("What computes. auto: a GPU each rank where the program was built for it and finds "
             "them, else the CPU; the log says why.")),
    KEY(run, share_gpu, "no",
        HELP("Let several ranks use one GPU, to try things out. They run after one another, each "
             "holds all it needs, and their sums are slow.")),
    KEY(run, cuda_graph, "yes",
        HELP("On GPUs, record a step once and launch it as one CUDA graph from then on; its bits "
             "are the same. no: launch each part of each step.")),
    KEY(run, tf32, "no", HASHED,
        HELP(
            "On GPUs, let precision = fp32 round the factors of convolutions and products to TF32, "
            "10 bits of mantissa: several times as fast.")),
    KEY(run, autotune, "yes",
        HELP("On GPUs, time the best of cuDNN's engines for each convolution and take the fastest. "
             "Not with train.reproducible, which takes the first deterministic one.")),
    KEY(run, plan_cache, "auto",
        HELP("On GPUs, the folder where cuDNN's plans are kept for later runs. auto: imgcls/plans "
             "in "
             "$XDG_CACHE_HOME or ~/.cache. none: keep nothing.")),
    KEY(run, threads, "0", RANGE(0, 4096),
        HELP("Computing threads of each rank. 0: the cores the rank may use.")),
    KEY_SIZE(run, memory_limit, "auto", RANGE(67108864, 256 * 1024 * GIB),
             WORD("auto", CONFIG_AUTOMATIC),
             HELP("Memory that each rank may take: of its GPU, or of the machine. It decides about "
                  "train.micro_batch and train.recompute. auto: nine tenths of what is free at the "
                  "start, shared by the ranks of a machine.")),
    KEY(run, comm_timeout_s, "600", RANGE(1, 1000000),
        HELP("Seconds without progress after which a rank says where it waits and the job ends.")),
    KEY(run, stop_deadline_s, "20", RANGE(1, 86400),
        HELP("Seconds between a request to stop and the end, within which the state is saved.")),
    // --- log ---
    KEY(log, every_steps, "0", RANGE(0, 1e12),
        HELP("Steps between lines in a log that is not a terminal. 0: a line every 30 seconds.")),
    KEY(log, format, "text", CHOICES("text", "json"), HELP("json: one JSON object a line.")),
    KEY(log, tensorboard, "yes",
        HELP("Whether the curves also go to a file for TensorBoard in run.output.")),
    KEY(log, mllog, "no",
        HELP("Whether the run is also logged as MLPerf Training asks for it, in mllog.txt in "
             "run.output.")),
};

const ConfigKey *config_keys(size_t *count) {
  *count = sizeof KEYS / sizeof *KEYS;
  return KEYS;
}

const ConfigSection *config_sections(size_t *count) {
  *count = sizeof SECTIONS / sizeof *SECTIONS;
  return SECTIONS;
}

const ConfigKey *config_key_find(const char *section, const char *name) {
  for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
    if (strcmp(KEYS[i].section, section) == 0 && strcmp(KEYS[i].name, name) == 0) return &KEYS[i];
  return NULL;
}
