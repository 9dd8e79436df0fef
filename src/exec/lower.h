// From the layers of a graph to the steps that a backend runs: chains of layers become one step by
// a table of rewrite rules (lower.c).
#ifndef IMGCLS_EXEC_LOWER_H
#define IMGCLS_EXEC_LOWER_H

#include "backend/backend.h"
#include "graph/graph.h"

typedef struct Step {
  StepDesc desc; // batch and dtype are filled in when the program is planned
  int inputs[STEP_MAX_INPUTS]; // values of the program
  int output;
  int parameters[STEP_MAX_PARAMETERS]; // of the graph; -1: absent
} Step;

// Straight-line code. Value 0 is the input (after scaling, where it is an image).
typedef struct Program {
  Step *steps; // in the order of execution; owned
  int step_count;
  Shape *shapes; // of each value, without the batch; owned
  int value_count;
  int output; // value of the model's output
  bool input_is_image;
  int input_channels;
  float input_scale[RESCALING_MAX_CHANNELS]; // of a pixel in [0, 1], from the graph's Rescalings
  float input_offset[RESCALING_MAX_CHANNELS];
} Program;

typedef enum LowerMode {
  LOWER_INFERENCE, // no dropout, moving statistics
  LOWER_TRAINING,  // batch statistics and dropout in trainable layers; frozen ones as in inference
} LowerMode;

typedef struct ProgramDesc {
  const Graph *graph; // borrowed by the program: layer names
  LowerMode mode;
  bool folds_norms; // in inference: convolutions take in the normalisations behind them
  // A part of the graph: the layers that lead from the value `input` to `output`. 0: from the
  // model's input, to its output. Layers keep their numbers, and so their dropout's draws.
  Value input, output;
} ProgramDesc;

// Lowers a graph. STATUS_CONFIG names the layer that has no step. The program is owned by the
// caller.
MUST_CHECK Status program_create(Program **out, const ProgramDesc *desc);
void program_free(Program *program);

#endif
