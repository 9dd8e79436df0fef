// Texts that come from outside. See text.h.
#include "base/text.h"

#include <stddef.h>

#include "base/memory.h"

// The bytes that may begin a character and, behind it, those that may follow first (Unicode, table
// 3-7). All later ones are 0x80..0xbf.
static const struct {
  unsigned char first_low, first_high, second_low, second_high, length;
} forms[] = {
    {0x01, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
    {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
    {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

int text_utf8_length(const char *text) {
  const unsigned char *c = (const unsigned char *)text;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    if (c[0] < forms[i].first_low || c[0] > forms[i].first_high) continue;
    if (forms[i].length == 1) return 1;
    if (c[1] < forms[i].second_low || c[1] > forms[i].second_high) return 0;
    for (int k = 2; k < forms[i].length; k++)
      if (c[k] < 0x80 || c[k] > 0xbf) return 0;
    return forms[i].length;
  }
  return 0;
}

// A control character of ASCII or Latin-1 that has `length` bytes.
static bool is_control(const char *text, int length) {
  const unsigned char *c = (const unsigned char *)text;
  return length == 1 ? c[0] < 0x20 || c[0] == 0x7f : length == 2 && c[0] == 0xc2 && c[1] < 0xa0;
}

bool text_is_printable(const char *text) {
  for (int length; *text; text += length) {
    length = text_utf8_length(text);
    if (length == 0 || is_control(text, length)) return false;
  }
  return true;
}

Status text_copy_printable(char **out, const char *text) {
  TRY(memory_copy_string(out, text));
  for (char *c = *out; *c;) {
    int length = text_utf8_length(c), taken = length > 0 ? length : 1;
    bool is_shown = length > 0 && !is_control(c, length);
    for (int i = 0; !is_shown && i < taken; i++) c[i] = '?';
    c += taken;
  }
  return STATUS_OK;
}
