// Error codes and the one message that goes with them. Used by every module.
//
// The site that detects an error calls status_set once, with place, value and cure; callers pass
// the code up unchanged and may only prepend context. The codes are the exit codes of the programs
// (sysexits.h), so a Status that reaches main becomes the exit status as it is.
#ifndef IMGCLS_BASE_STATUS_H
#define IMGCLS_BASE_STATUS_H

typedef enum Status {
  STATUS_OK = 0,
  STATUS_ERROR = 1,        // none of the others
  STATUS_USAGE = 64,       // wrong command line
  STATUS_DATA = 65,        // damaged data, or no valid checkpoint
  STATUS_NO_INPUT = 66,    // dataset or file missing
  STATUS_INTERNAL = 70,    // our own bug
  STATUS_OS = 71,          // memory, threads, MPI
  STATUS_CANT_CREATE = 73, // output cannot be created
  STATUS_IO = 74,          // read or write failed
  STATUS_STOPPED = 75,     // stopped early, state saved: start again to continue
  STATUS_PERMISSION = 77,
  STATUS_CONFIG = 78, // wrong configuration
} Status;

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

// Sets this thread's message and returns `code`. Errors deeper down are never masked: call it only
// where the error is detected.
Status status_set(Status code, const char *format, ...) PRINTF_LIKE(2, 3);

// As status_set, with ": " and the text of errno; picks NO_INPUT for ENOENT (not for an output,
// CANT_CREATE), PERMISSION for EACCES and EPERM, OS for ENOMEM, and `code` for the rest.
Status status_set_errno(Status code, const char *format, ...) PRINTF_LIKE(2, 3);

// Puts context and ": " before this thread's message; returns `code`.
Status status_prepend(Status code, const char *format, ...) PRINTF_LIKE(2, 3);

// This thread's message, valid until its next status call. "" where none was set.
const char *status_message(void);

enum { STATUS_MESSAGE_CAPACITY = 4096 }; // bytes of a message; longer ones are cut

// A status with its message, across calls that may set another, or for another thread.
typedef struct KeptStatus {
  Status code;
  char message[STATUS_MESSAGE_CAPACITY]; // of a failure
} KeptStatus;

void status_keep(KeptStatus *out, Status code);

// Makes the kept failure's message this thread's, as the call that failed left it; returns the code.
Status status_restore(const KeptStatus *kept);

// Returns from the function when `call` fails.
#define TRY(call)                                                                                  \
  do {                                                                                             \
    Status try_status = (call);                                                                    \
    if (try_status != STATUS_OK) return try_status;                                                \
  } while (0)

// Jumps to `out:` when `call` fails; the function has a local `Status status`.
#define GUARD(call)                                                                                \
  do {                                                                                             \
    status = (call);                                                                               \
    if (status != STATUS_OK) goto out;                                                             \
  } while (0)

#endif
