// A place where a test stops the program for a minute, to kill it there. Called by what must
// survive a crash at that very place: the saving of checkpoints.
//
// Does nothing unless the environment says IMGCLS_TEST_HOLD=POINT:TEXT with this point's name and
// a text that occurs in `path`. Then it says so on standard error and waits.
#ifndef IMGCLS_BASE_HOLD_H
#define IMGCLS_BASE_HOLD_H

void hold_for_test(const char *point, const char *path);

#endif
