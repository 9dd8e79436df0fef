// Whether what looks for mistakes in kernels finds them: kernels with a mistake planted in each,
// run in a child process that must end with a message of the right kind; and right ones, which must
// not. Built with the checker of races, or with AddressSanitizer for accesses beyond the ends.
#include "kernel.cuh"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace {

enum { THREADS = 64, COUNT = 3 * THREADS };

// --- right ---------------------------------------------------------------------------------------

__global__ void sums_right(float *out, const float *in) {
  __shared__ float sums[THREADS];
  int me = (int)threadIdx.x;
  sums[me] = in[global_thread()];
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me < half) sums[me] += sums[me + half];
  }
  if (me == 0) out[blockIdx.x] = sums[0];
}

__global__ void warp_right(float *out, const float *in) {
  __shared__ float turned[THREADS];
  int me = (int)threadIdx.x;
  turned[me ^ 1] = in[global_thread()];
  __syncwarp();
  out[global_thread()] = turned[me];
}

#if defined(__SANITIZE_ADDRESS__)

// --- beyond the ends -----------------------------------------------------------------------------

// AddressSanitizer is to find it, which UndefinedBehaviorSanitizer would do first.
__attribute__((no_sanitize_undefined)) __global__ void beyond_shared(float *out, const float *in) {
  __shared__ float slots[THREADS];
  slots[threadIdx.x + 1] = in[global_thread()];
  __syncthreads();
  out[global_thread()] = slots[threadIdx.x];
}

__global__ void beyond_global(float *out, const float *in) {
  out[global_thread()] = in[global_thread() + 1];
}

#else

__global__ void bytes_right(uint8_t *out, const float *in) {
  out[global_thread()] = (uint8_t)in[global_thread()]; // neighbours share a word, not a byte
}

// --- with a race ---------------------------------------------------------------------------------

__global__ void sums_without_barrier(float *out, const float *in) {
  __shared__ float sums[THREADS];
  int me = (int)threadIdx.x;
  sums[me] = in[global_thread()];
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2)
    if (me < half) sums[me] += sums[me + half];
  if (me == 0) out[blockIdx.x] = sums[0];
}

// The second use of the shared memory does not wait for the readers of the first.
__global__ void reused_too_soon(float *out, const float *in) {
  __shared__ float slots[THREADS];
  int me = (int)threadIdx.x;
  slots[me] = in[global_thread()];
  __syncthreads();
  float first = slots[(me + 1) % THREADS];
  slots[me] = 2.0f * first;
  __syncthreads();
  out[global_thread()] = slots[me];
}

__global__ void across_warps(float *out, const float *in) {
  __shared__ float slots[THREADS];
  slots[threadIdx.x] = in[global_thread()];
  __syncwarp(); // orders the threads of a warp only
  out[global_thread()] = slots[(threadIdx.x + WARP_SIZE) % THREADS];
}

__global__ void blocks_collide(float *out, const float *in) {
  out[threadIdx.x] = in[global_thread()];
}

#endif

// --- running -------------------------------------------------------------------------------------

template <class Kernel> void launch(Kernel kernel) {
  float *in = (float *)std::malloc(COUNT * sizeof *in),
        *out = (float *)std::malloc(COUNT * sizeof *in);
  for (int i = 0; i < COUNT; i++) in[i] = (float)i, out[i] = 0.0f;
  KERNEL_LAUNCH(kernel, COUNT / THREADS, THREADS, nullptr, out, in);
  std::free(in);
  std::free(out);
}

struct Trial {
  const char *name;
  void (*run)();
  const char *message; // NULL: it must end well
};

#if defined(__SANITIZE_ADDRESS__)
const Trial trials[] = {
    {"sums_right", [] { launch(sums_right); }, nullptr},
    {"warp_right", [] { launch(warp_right); }, nullptr},
    {"beyond_shared", [] { launch(beyond_shared); }, "AddressSanitizer: global-buffer-overflow"},
    {"beyond_global", [] { launch(beyond_global); }, "AddressSanitizer: heap-buffer-overflow"},
};
#else
void launch_bytes() {
  float numbers[COUNT] = {}, *in = numbers;
  uint8_t bytes[COUNT], *out = bytes;
  KERNEL_LAUNCH(bytes_right, COUNT / THREADS, THREADS, nullptr, out, in);
}

const Trial trials[] = {
    {"sums_right", [] { launch(sums_right); }, nullptr},
    {"warp_right", [] { launch(warp_right); }, nullptr},
    {"bytes_right", launch_bytes, nullptr},
    {"sums_without_barrier", [] { launch(sums_without_barrier); }, "race"},
    {"reused_too_soon", [] { launch(reused_too_soon); }, "race"},
    {"across_warps", [] { launch(across_warps); }, "race"},
    {"blocks_collide", [] { launch(blocks_collide); }, "race"},
};
#endif

// What a child that runs the trial says and how it ends.
bool runs_well(const Trial &trial, std::string *said) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    trial.run();
    _exit(0);
  }
  close(ends[1]);
  char text[4096];
  for (ssize_t got; (got = read(ends[0], text, sizeof text)) > 0;) said->append(text, (size_t)got);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

} // namespace

int main() {
  int failed = 0;
  for (const Trial &trial : trials) {
    std::string said;
    bool well = runs_well(trial, &said);
    bool right = trial.message ? !well && said.find(trial.message) != std::string::npos : well;
    std::printf("%-22s %s\n", trial.name, right ? "as it must" : "WRONG");
    if (!right) std::printf("%s\n", said.c_str());
    failed += !right;
  }
  return failed != 0;
}
