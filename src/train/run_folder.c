// The folder of a run. See run_folder.h.
#include "train/run_folder.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "io/file.h"

Status run_folder_make(const char *path) {
  char *copy;
  TRY(memory_copy_string(&copy, path));
  Status status = STATUS_OK;
  for (char *c = copy + 1;; c++) {
    if (*c != '/' && *c != '\0') continue;
    char end = *c;
    *c = '\0';
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
      GUARD(status_set_errno(STATUS_CANT_CREATE, "[run] output: cannot create the folder '%s'",
                             copy));
    *c = end;
    if (end == '\0') break;
  }
  struct stat info;
  if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
    status = status_set(STATUS_CANT_CREATE, "[run] output = %s is a file; name a folder", path);
out:
  memory_free(copy);
  return status;
}

// train.log goes on where an earlier part of the run has left it.
static Status open_train_log(Log *log, const char *folder) {
  char *path;
  TRY(memory_print_string(&path, "%s/train.log", folder));
  Status status = log_open_copy(log, path);
  memory_free(path);
  return status;
}

static Status write_config(const Config *config) {
  char *text = NULL, *path = NULL;
  Status status = STATUS_OK;
  GUARD(config_format(&text, config, true));
  GUARD(memory_print_string(&path, "%s/config.resolved.ini", config->run.output));
  status = file_replace_unsynced(path, text, strlen(text));
out:
  memory_free(text);
  memory_free(path);
  return status;
}

static Status open_files(const Job *job) {
  const char *folder = job->config->run.output;
  if (job->world->rank != 0) return STATUS_OK;
  TRY(open_train_log(job->log, folder));
  return write_config(job->config);
}

Status run_folder_open(Job *job) {
  const Config *config = job->config;
  TRY(world_agree_status(job->world, open_files(job)));
  TRY(watchdog_start(&job->watchdog,
                     &(WatchdogDesc){.program = job->log->program,
                                     .host = job->world->host,
                                     .run_dir = config->run.output,
                                     .rank = job->world->rank,
                                     .timeout_s = config->run.comm_timeout_s,
                                     .stop_deadline_s = config->run.stop_deadline_s}));
  if (job->world->rank != 0) return STATUS_OK;
  return checkpoints_open(&job->checkpoints,
                          &(CheckpointsDesc){.folder = config->run.output,
                                             .resumed = job->saved ? job->saved->path : NULL,
                                             .keep = config->checkpoint.keep,
                                             .keep_every = config->checkpoint.keep_every,
                                             .log = job->log,
                                             .watchdog = job->watchdog});
}
