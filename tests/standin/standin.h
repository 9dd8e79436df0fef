// Stand-ins for the GPU's libraries, so that the host side of the CUDA backend runs whole without a
// GPU: device memory is the host's, kernels run through tests/kernels/emulation.h, cuDNN's graphs and
// cuBLASLt's products are computed naively from the same descriptors. Test tools, never part of the
// program. What they do not know they refuse by name instead of guessing.
//
// STANDIN_GPUS = how many devices there are (1; 0: a driver without any, -1: no driver).
// STANDIN_NAME = what each is called.
// STANDIN_FAIL = k: the k-th call of a library fails, counted from 1 over all of them.
// STANDIN_FAIL_RECORDING = k: the same, counted during captures alone; "begin" and "instantiate" name the
// calls around them.
// STANDIN_FAIL_PLACE = k: so does the first call from the k-th place that calls one. STANDIN_REPORT = a
// file for the functions that led to it.
// STANDIN_GUARD = 1: device memory can be touched only by kernels and inside the libraries'
// calls, as on a GPU; a program that reads or writes it itself ends with SIGSEGV.
// STANDIN_MEMORY = a file: behind it, as the program ends, the most bytes of device memory that were
// taken at one time, how many were copied to it from the host, and how many of these from memory of
// the host that is not pinned.
// STANDIN_TRACE = a file: a line for each kernel as it is done, with the number of its stream (from 1,
// in the order of creation) and its name.
// STANDIN_EAGER = n: stream n does its work at once, not as late as it may.
// STANDIN_DEAF = n: stream n waits for no other.
// STANDIN_NCCL: see nccl.c.
#ifndef IMGCLS_TESTS_STANDIN_STANDIN_H
#define IMGCLS_TESTS_STANDIN_STANDIN_H

#include <stdbool.h>
#include <stddef.h>

struct CUstream_st; // a cudaStream_t points to it

#ifdef __cplusplus
extern "C" {
#endif

// What memory of the runtime starts at. cuDNN and cuBLASLt take it for granted for a workspace.
enum { WORKSPACE_ALIGNMENT = 256 };

// Whether this call, one more, is the one that must fail.
bool standin_call_fails(void);

// Around every touch of device memory by a stand-in. Calls nest.
void standin_touch_begin(void);
void standin_touch_end(void);

// What loading a library returns where it is missing: STATUS_CONFIG, with a message.
int standin_missing(const char *file);

// Device memory, freed by cudaFree; NULL where there is none.
void *standin_memory_take(size_t size);

// Lets the time of the device go on: what events measure. Nothing else does.
void standin_pass_time(double us);

// Ends the process: the program asked for something that the stand-in does not know.
__attribute__((noreturn, format(printf, 1, 2))) void standin_unknown(const char *format, ...);

// Queues work on a stream, to be done as late as a GPU might: when something waits for it, or stands
// behind it on the same stream.
void standin_stream_add(struct CUstream_st *stream, void (*work)(void *), void *context);

// What is added from now on is never done, nor what waits for it on other streams.
void standin_stream_hang(struct CUstream_st *stream);

// Whether a capture under way on `stream` has taken this work, to `run` it in each launch and `drop`
// it with the graph.
bool standin_stream_records(struct CUstream_st *stream, void (*run)(void *), void (*drop)(void *),
                            void *context);

// The same of work that is done at once where the stream has never waited for another; false: all
// that is queued before it is done now. Else it is queued too, with `drop` behind `run`.
bool standin_stream_takes(struct CUstream_st *stream, void (*run)(void *), void (*drop)(void *),
                          void *context);

int standin_stream_number(struct CUstream_st *stream); // 0 of NULL

// Whether the calling thread captures.
bool standin_is_recording(void);

// Whether something is queued on any stream.
bool standin_streams_are_idle(void);

// Does all that is queued.
void standin_stream_run(struct CUstream_st *stream);

// Whether the stream has been told to wait for another since the last call of this.
bool standin_stream_has_waited(struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif

#endif
