// The thread-local message behind Status. See status.h.
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[STATUS_MESSAGE_CAPACITY];

Status status_set(Status code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  (void)vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return code;
}

Status status_set_errno(Status code, const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  int used = vsnprintf(message, sizeof message, format, args);
  va_end(args);
  char reason[128];
  const char *text = strerror_r(error, reason, sizeof reason); // the GNU form
  if (used >= 0 && (size_t)used < sizeof message)
    (void)snprintf(message + used, sizeof message - (size_t)used, ": %s", text);
  switch (error) {
  case ENOENT: return code == STATUS_CANT_CREATE ? code : STATUS_NO_INPUT;
  case EACCES:
  case EPERM: return STATUS_PERMISSION;
  case ENOMEM: return STATUS_OS;
  default: return code;
  }
}

Status status_prepend(Status code, const char *format, ...) {
  char context[STATUS_MESSAGE_CAPACITY];
  va_list args;
  va_start(args, format);
  int used = vsnprintf(context, sizeof context, format, args);
  va_end(args);
  if (used < 0 || (size_t)used + 3 > sizeof context) return code;
  size_t room = sizeof context - (size_t)used;
  (void)snprintf(context + used, room, ": %.*s", (int)room - 3, message);
  memcpy(message, context, sizeof message);
  return code;
}

const char *status_message(void) { return message; }

void status_keep(KeptStatus *out, Status code) {
  out->code = code;
  if (code != STATUS_OK) memcpy(out->message, message, sizeof message);
}

Status status_restore(const KeptStatus *kept) {
  if (kept->code != STATUS_OK) memcpy(message, kept->message, sizeof message);
  return kept->code;
}
