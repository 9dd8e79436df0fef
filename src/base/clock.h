// Monotonic time for measuring, wall time for stamping files.
#ifndef IMGCLS_BASE_CLOCK_H
#define IMGCLS_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t clock_now_ns(void);       // monotonic, nanoseconds
double clock_now_s(void);         // monotonic, seconds
double clock_wall_s(void);        // seconds since 1970
void clock_sleep_ms(int64_t ms);  // goes on sleeping after a signal
void clock_format_utc(char *text, size_t capacity); // "2026-11-23T09:30:00Z"; 21 bytes are enough

#endif
