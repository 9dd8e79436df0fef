// Which of the library's engines runs a graph. See graph_plan in cudnn_graph.h.
//
// The library's heuristics rank engines; those that do not compute what is asked, or take too much
// workspace, drop out. The first is taken, or with PlanOptions.autotune the fastest of the best
// few, timed on the device with memory of the real sizes. A device keeps every plan until it
// closes, so that layers with one problem share it; the plan cache keeps them for later runs.
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cudnn_graph.h"
#include "base/clock.h"
#include "base/memory.h"

enum {
  ENGINES_MAX = 64,
  NOTES_MAX = 16,
  COMPILED_MAX = 3,    // candidates that the library compiles, a second each
  TIMED_SAMPLES = 2,   // of a candidate; the shortest counts
  RUNS_PER_SAMPLE = 10 // so that the host's launch of the first hardly counts
};

// What is planned now.
typedef struct Planning {
  GraphBuilder *builder;
  Device *device;
  char *key; // owned
  PlanEntry entry;
  cudnnBackendDescriptor_t plans[PLAN_CANDIDATES_MAX]; // of the candidates; NULL: not yet made
  int wanted;                                          // candidates
  int compiled;                                        // of them
  bool refused_compiled; // an engine was refused that a driver might have compiled
  bool is_left;          // that engine was ranked first: a run on the device is to find the plan
} Planning;

// --- what the library knows ----------------------------------------------------------------------

typedef struct EngineFacts {
  bool is_rounding, is_nondeterministic, is_compiled;
  int index;
} EngineFacts;

static bool read_notes(EngineFacts *facts, cudnnBackendDescriptor_t engine) {
  cudnnBackendNumericalNote_t numerical[NOTES_MAX];
  cudnnBackendBehaviorNote_t behavior[NOTES_MAX];
  int64_t count = 0, index = 0;
  if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                               NOTES_MAX, &count, numerical) != CUDNN_STATUS_SUCCESS)
    return false;
  for (int64_t i = 0; i < count && i < NOTES_MAX; i++) {
    facts->is_rounding |= numerical[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                          numerical[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
    facts->is_nondeterministic |= numerical[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
  }
  if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                               NOTES_MAX, &count, behavior) != CUDNN_STATUS_SUCCESS)
    return false;
  for (int64_t i = 0; i < count && i < NOTES_MAX; i++)
    facts->is_compiled |= behavior[i] == CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
  if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count,
                               &index) != CUDNN_STATUS_SUCCESS)
    return false;
  facts->index = (int)index;
  return true;
}

static bool read_facts(EngineFacts *facts, cudnnBackendDescriptor_t config) {
  cudnnBackendDescriptor_t engine = NULL;
  int64_t count = 0;
  *facts = (EngineFacts){0};
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) !=
      CUDNN_STATUS_SUCCESS)
    return false;
  bool known =
      cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                               1, &count, &engine) == CUDNN_STATUS_SUCCESS &&
      read_notes(facts, engine);
  graph__destroy(engine);
  return known;
}

// A plan for the device, from an engine's configuration or from JSON. NULL where it is refused.
static cudnnBackendDescriptor_t make_plan(const Device *device, cudnnBackendDescriptor_t config,
                                          const char *json) {
  cudnnBackendDescriptor_t plan = NULL;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) !=
      CUDNN_STATUS_SUCCESS)
    return NULL;
  cudnnStatus_t placed =
      device->model ? cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device->model)
                    : cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                                               CUDNN_TYPE_HANDLE, 1, &device->cudnn);
  cudnnStatus_t filled =
      json ? cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                                      CUDNN_TYPE_CHAR, (int64_t)strlen(json), json)
           : cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
  if (placed == CUDNN_STATUS_SUCCESS && filled == CUDNN_STATUS_SUCCESS &&
      cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS)
    return plan;
  graph__destroy(plan);
  return NULL;
}

static bool read_workspace(cudnnBackendDescriptor_t plan, size_t *size_bytes) {
  int64_t count = 0, workspace = 0;
  if (cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                               &count, &workspace) != CUDNN_STATUS_SUCCESS)
    return false;
  *size_bytes = (size_t)workspace;
  return true;
}

// The plan in the library's words, owned by the caller; NULL where it has none.
static char *read_json(cudnnBackendDescriptor_t plan) {
  int64_t size = 0, count = 0;
  char *json = NULL;
  if (cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                               0, &size, NULL) != CUDNN_STATUS_SUCCESS ||
      memory_alloc(&json, (size_t)size + 1, 1) != STATUS_OK)
    return NULL;
  if (cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                               size, &count, json) == CUDNN_STATUS_SUCCESS)
    return json;
  memory_free(json);
  return NULL;
}

// --- candidates ----------------------------------------------------------------------------------

// Takes a configuration among the candidates where it does what is asked.
static void consider(Planning *p, cudnnBackendDescriptor_t config) {
  PlanEntry *entry = &p->entry;
  EngineFacts facts;
  if (entry->count == p->wanted || !read_facts(&facts, config)) return;
  if (facts.is_rounding && !p->builder->allows_rounding) return;
  if (facts.is_nondeterministic && p->device->options.deterministic) return;
  if (facts.is_compiled && (p->compiled == COMPILED_MAX || p->builder->refuses_compiled)) return;
  PlanCandidate candidate = {.engine = facts.index, .is_compiled = facts.is_compiled};
  cudnnBackendDescriptor_t plan = make_plan(p->device, config, NULL);
  if (!plan && facts.is_compiled && !p->device->has_driver) {
    p->refused_compiled = true;
    p->is_left |= entry->count == 0 && p->device->model;
  }
  if (!plan) return;
  if (!read_workspace(plan, &candidate.workspace_size) ||
      candidate.workspace_size > p->device->workspace_limit) {
    graph__destroy(plan);
    return;
  }
  if (p->device->plan_cache.folder) candidate.json = read_json(plan);
  p->compiled += facts.is_compiled;
  p->plans[entry->count] = plan;
  entry->candidates[entry->count++] = candidate;
}

// Goes through what one heuristic proposes, best first.
static void consider_mode(Planning *p, cudnnBackendDescriptor_t graph,
                          cudnnBackendHeurMode_t mode) {
  GraphBuilder *b = p->builder;
  cudnnBackendDescriptor_t heuristic = graph__make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  cudnnBackendDescriptor_t configs[ENGINES_MAX] = {0};
  int64_t count = 0;
  graph__set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR,
             &graph);
  if (p->device->model)
    graph__set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR,
               &p->device->model);
  graph__set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode);
  if (b->status != STATUS_OK || cudnnBackendFinalize(heuristic) != CUDNN_STATUS_SUCCESS) return;
  bool made = true;
  for (int i = 0; i < ENGINES_MAX && made; i++)
    made = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]) ==
           CUDNN_STATUS_SUCCESS;
  if (made && cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, ENGINES_MAX, &count,
                                       configs) == CUDNN_STATUS_SUCCESS)
    for (int64_t i = 0; i < count && i < ENGINES_MAX; i++) consider(p, configs[i]);
  for (int i = 0; i < ENGINES_MAX; i++) graph__destroy(configs[i]);
}

static Status find_candidates(Planning *p) {
  GraphBuilder *b = p->builder;
  const Device *device = p->device;
  cudnnBackendDescriptor_t graph = graph__finish(b);
  p->wanted = device->options.autotune ? PLAN_CANDIDATES_MAX : 1;
  if (graph) consider_mode(p, graph, CUDNN_HEUR_MODE_A);
  if (graph && p->entry.count == 0) consider_mode(p, graph, CUDNN_HEUR_MODE_FALLBACK);
  // Without a driver some heuristics leave compiled engines out.
  p->is_left |= p->entry.count == 0 && device->model && !device->has_driver && !b->refuses_compiled;
  p->entry.is_complete = device->options.autotune && !p->refused_compiled;
  if (b->status != STATUS_OK || p->entry.count > 0 || p->is_left) return b->status;
  return status_set(STATUS_OS, "%s, %s: cuDNN has no%s engine within a workspace of %zu MiB",
                    b->label.layer, b->label.pass,
                    device->options.deterministic ? " deterministic" : "",
                    device->workspace_limit >> 20);
}

// --- timing --------------------------------------------------------------------------------------

typedef struct Tuning {
  void *memory;
  void *pointers[GRAPH_MAX_TENSORS];
  void *workspace;
} Tuning;

// Memory for the graph's tensors and the largest workspace: what a step will use later, so it is
// there now, unless other programs share the device. A later run tries again.
static Status take_memory(Tuning *tuning, const Planning *p) {
  const GraphBuilder *b = p->builder;
  size_t size = 0, offsets[GRAPH_MAX_TENSORS], workspace = 0;
  int count = 0;
  for (int i = 0; i < b->tensor_count; i++) {
    if (b->tensors[i].is_virtual) continue;
    offsets[count++] = size;
    size += cuda_round_up(b->tensors[i].size_bytes);
  }
  for (int i = 0; i < p->entry.count; i++)
    if (p->entry.candidates[i].workspace_size > workspace)
      workspace = p->entry.candidates[i].workspace_size;
  TRY(cuda_memory_alloc(p->device, &tuning->memory, size + cuda_round_up(workspace + 1)));
  for (int i = 0; i < count; i++) tuning->pointers[i] = (char *)tuning->memory + offsets[i];
  tuning->workspace = (char *)tuning->memory + size;
  return STATUS_OK;
}

static Status take_samples(double seconds[TIMED_SAMPLES], Timeline *timeline, GraphPlan *plan,
                           const Tuning *tuning, Device *device) {
  TRY(graph_plan_run(plan, device, tuning->pointers, tuning->workspace)); // warms up
  for (int sample = 0; sample < TIMED_SAMPLES; sample++) {
    TRY(cuda_timeline_mark(timeline));
    for (int run = 0; run < RUNS_PER_SAMPLE; run++)
      TRY(graph_plan_run(plan, device, tuning->pointers, tuning->workspace));
  }
  TRY(cuda_timeline_mark(timeline));
  return cuda_timeline_read(timeline, seconds);
}

static Status time_plan(double *out_us, GraphPlan *plan, const Tuning *tuning, Device *device) {
  Timeline *timeline;
  double seconds[TIMED_SAMPLES];
  TRY(cuda_timeline_create(device, &timeline, TIMED_SAMPLES + 1));
  Status status = take_samples(seconds, timeline, plan, tuning, device);
  cuda_timeline_free(timeline);
  for (int sample = 0; status == STATUS_OK && sample < TIMED_SAMPLES; sample++) {
    double us = seconds[sample] * 1e6 / RUNS_PER_SAMPLE;
    if (sample == 0 || us < *out_us) *out_us = us;
  }
  return status;
}

// An engine that the device refuses to run is no candidate any more; where the device itself is
// broken, nothing is.
static Status pass_over(Planning *p, int i, Status failure) {
  (void)cudaGetLastError();
  if (cudaStreamSynchronize(p->device->stream) != cudaSuccess) return failure;
  log_verbose(p->device->options.log, "%s, %s: cuDNN's engine %d is passed over: %s",
              p->builder->label.layer, p->builder->label.pass,
              (int)p->entry.candidates[i].engine, status_message());
  p->entry.candidates[i].time_us = 0.0;
  return STATUS_OK;
}

static Status time_candidates(Planning *p) {
  Tuning tuning = {0};
  Device *device = p->device;
  Status status = take_memory(&tuning, p);
  if (status != STATUS_OK && !tuning.memory) {
    log_verbose(device->options.log, "%s, %s: cuDNN's engines are not timed: %s",
                p->builder->label.layer, p->builder->label.pass, status_message());
    return STATUS_OK;
  }
  for (int i = 0; i < p->entry.count && status == STATUS_OK; i++) {
    PlanCandidate *candidate = &p->entry.candidates[i];
    if (!p->plans[i]) p->plans[i] = make_plan(device, NULL, candidate->json);
    if (!p->plans[i]) continue;
    GraphPlan plan = {.plan = p->plans[i], .tensor_count = p->builder->memory_count};
    status = time_plan(&candidate->time_us, &plan, &tuning, device);
    if (status != STATUS_OK) status = pass_over(p, i, status);
    graph_plan_destroy(&plan);
  }
  cuda_memory_free(device, tuning.memory);
  return status == STATUS_OK ? status
                             : status_prepend(status, "%s, %s: timing of cuDNN's engines",
                                              p->builder->label.layer, p->builder->label.pass);
}

// --- choosing ------------------------------------------------------------------------------------

static Status format_key(char **out, const GraphBuilder *b) {
  const Device *device = b->device;
  return memory_print_string(out, "cuDNN %zu with CUDA %zu, %s\nworkspace %zu, %s, %s%s\n%s",
                             cudnnGetVersion(), cudnnGetCudartVersion(), device->kind,
                             device->workspace_limit,
                             device->options.deterministic ? "deterministic" : "any order",
                             b->allows_rounding ? "rounding" : "exact",
                             b->refuses_compiled ? ", precompiled" : "", b->words);
}

static int best_of(const PlanEntry *entry, bool by_time) {
  int best = 0;
  for (int i = 1; i < entry->count && by_time; i++) {
    const PlanCandidate *candidate = &entry->candidates[i], *other = &entry->candidates[best];
    if (candidate->time_us > 0.0 && (other->time_us <= 0.0 || candidate->time_us < other->time_us))
      best = i;
  }
  return best;
}

static void forget_candidates(Planning *p) {
  for (int i = 0; i < PLAN_CANDIDATES_MAX; i++) {
    graph__destroy(p->plans[i]);
    p->plans[i] = NULL;
  }
  plan_entry_deinit(&p->entry);
}

static bool needs_timing(const Planning *p) {
  bool is_timed = false;
  for (int i = 0; i < p->entry.count; i++) is_timed |= p->entry.candidates[i].time_us > 0.0;
  return p->device->options.autotune && !p->device->model && p->entry.count > 1 && !is_timed;
}

// Keeps what was found, where every candidate could be written down. What a driver might better is
// not kept: a run on the device is to find out.
static void keep(Planning *p) {
  bool is_whole = !p->is_left;
  for (int i = 0; i < p->entry.count; i++) is_whole = is_whole && p->entry.candidates[i].json;
  if (is_whole) plan_cache_write(&p->device->plan_cache, &p->entry, p->key);
}

// The candidate to take, whose plan is made; -1 where the library refuses what was read.
static Status choose(Planning *p, int *out) {
  bool times = needs_timing(p);
  if (times) TRY(time_candidates(p));
  *out = best_of(&p->entry, p->device->options.autotune);
  if (!p->plans[*out]) p->plans[*out] = make_plan(p->device, NULL, p->entry.candidates[*out].json);
  if (!p->plans[*out])
    *out = -1;
  else if (times)
    keep(p);
  return STATUS_OK;
}

static Status choose_from_cache(Planning *p, int *out) {
  Device *device = p->device;
  *out = -1;
  if (!plan_cache_read(&device->plan_cache, &p->entry, p->key)) return STATUS_OK;
  bool is_enough = !device->options.autotune || p->entry.is_complete;
  if (is_enough) TRY(choose(p, out));
  if (*out >= 0) return STATUS_OK;
  if (is_enough)
    log_warning(device->options.log,
                "plan cache: %s, %s: cuDNN refuses the kept plan; a new one "
                "is made",
                p->builder->label.layer, p->builder->label.pass);
  forget_candidates(p);
  return STATUS_OK;
}

static Status choose_anew(Planning *p, int *out) {
  TRY(find_candidates(p));
  if (p->entry.count == 0) return STATUS_OK; // left
  bool times = needs_timing(p);
  TRY(choose(p, out));
  if (!times) keep(p);
  return STATUS_OK;
}

static void describe(DevicePlan *shared, const Planning *p, int chosen) {
  static const PlanCandidate none = {.engine = -1};
  const PlanCandidate *candidate = chosen < 0 ? &none : &p->entry.candidates[chosen];
  const GraphLabel *label = &p->builder->label;
  PlanRecord *record = &shared->record;
  record->engine = candidate->engine;
  record->is_compiled = candidate->is_compiled;
  record->is_left = p->is_left;
  record->workspace_size = candidate->workspace_size;
  record->time_us = candidate->time_us;
  (void)snprintf(record->layer, sizeof record->layer, "%s", label->layer);
  (void)snprintf(record->pass, sizeof record->pass, "%s", label->pass);
  (void)snprintf(record->problem, sizeof record->problem, "%s", label->problem);
}

static Status plan_anew(DevicePlan **out, Planning *p, const char *key_sum) {
  double start_s = clock_now_s();
  int chosen = -1;
  DevicePlan *shared;
  Device *device = p->device;
  TRY(memory_reserve(&device->plans, &device->plan_capacity, device->plan_count + 1,
                     sizeof *device->plans));
  TRY(choose_from_cache(p, &chosen));
  bool is_from_cache = chosen >= 0;
  if (chosen < 0) TRY(choose_anew(p, &chosen));
  TRY(memory_alloc(&shared, 1, sizeof *shared));
  memcpy(shared->key, key_sum, sizeof shared->key);
  if (chosen >= 0) {
    shared->plan = p->plans[chosen];
    p->plans[chosen] = NULL;
  }
  describe(shared, p, chosen);
  shared->record.is_from_cache = is_from_cache;
  shared->record.planned_s = clock_now_s() - start_s;
  device->plans[device->plan_count++] = *out = shared;
  return STATUS_OK;
}

static Status plan_words(GraphBuilder *b, GraphPlan *out) {
  Device *device = b->device;
  Planning planning = {.builder = b, .device = device};
  DevicePlan *shared = NULL;
  char sum[CHECKSUM_TEXT_CAPACITY];
  TRY(format_key(&planning.key, b));
  (void)checksum_bytes(sum, planning.key, strlen(planning.key));
  for (size_t i = 0; i < device->plan_count && !shared; i++)
    if (memcmp(device->plans[i]->key, sum, sizeof sum) == 0) shared = device->plans[i];
  Status status = shared ? STATUS_OK : plan_anew(&shared, &planning, sum);
  if (status == STATUS_OK) {
    shared->record.uses++;
    out->plan = shared->plan;
    out->workspace_size = shared->record.workspace_size;
    out->is_compiled = shared->record.is_compiled;
    out->time_us = shared->record.time_us;
    out->tensor_count = b->memory_count;
  }
  forget_candidates(&planning);
  memory_free(planning.key);
  return status;
}

Status graph_plan(GraphBuilder *b, GraphPlan *out) {
  *out = (GraphPlan){0};
  Status status = b->status;
  if (status == STATUS_OK) status = plan_words(b, out);
  graph__free(b);
  return status;
}

// --- the device's plans --------------------------------------------------------------------------

const PlanRecord *cuda_plan_record(const Device *device, int i) {
  return (size_t)i < device->plan_count ? &device->plans[i]->record : NULL;
}

void cuda__plans_free(Device *device) {
  for (size_t i = 0; i < device->plan_count; i++) {
    graph__destroy(device->plans[i]->plan);
    memory_free(device->plans[i]);
  }
  memory_free(device->plans);
}
