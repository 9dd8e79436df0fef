// Texts that come from outside: what is UTF-8, and what is safe to print.
#ifndef IMGCLS_BASE_TEXT_H
#define IMGCLS_BASE_TEXT_H

#include <stdbool.h>

#include "base/status.h"

// Bytes of the UTF-8 character at `text`, 1 to 4; 0 where there is none (overlong, surrogate, cut).
int text_utf8_length(const char *text);

// Whether `text` is UTF-8 without control characters of ASCII or Latin-1.
bool text_is_printable(const char *text);

// A copy of `text` that is safe to print and is UTF-8: other bytes become '?'. Owned by the caller.
MUST_CHECK Status text_copy_printable(char **out, const char *text);

#endif
