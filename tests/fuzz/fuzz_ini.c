// Any text as a configuration. What is accepted is printed and read again, and must print the same.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Config first, second;
  ConfigProblems problems = {0};
  char *printed = NULL, *again = NULL;
  if (config_load_text(&first, &problems, (const char *)data, size) == STATUS_OK) {
    config_problems_deinit(&problems);
    if (config_format(&printed, &first, false) != STATUS_OK ||
        config_load_text(&second, &problems, printed, strlen(printed)) != STATUS_OK ||
        config_format(&again, &second, false) != STATUS_OK || strcmp(printed, again) != 0)
      abort();
    config_deinit(&second);
  }
  config_deinit(&first);
  config_problems_deinit(&problems);
  memory_free(printed);
  memory_free(again);
  return 0;
}
