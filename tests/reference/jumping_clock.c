/* Preloaded into Debian's cron: sleeping moves the clock at once, and what would be run is only written down.

   BEGIN, END: seconds since 1970. RUNS: a file, to which a line "seconds command" is appended for each run.
   LOG: the same for what cron has to say. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static time_t now;

static time_t moment(const char *name) { return (time_t)atoll(getenv(name)); }

time_t time(time_t *to) {
  if (!now) now = moment("BEGIN");
  if (to) *to = now;
  return now;
}

unsigned sleep(unsigned seconds) {
  now = time(NULL) + seconds;
  if (now >= moment("END")) {
    while (wait(NULL) > 0) {
    }
    _exit(0);
  }
  return 0;
}

static void note(const char *file, const char *words) {
  char line[2000];
  int n = snprintf(line, sizeof line, "%lld %s\n", (long long)time(NULL), words);
  int to = open(getenv(file), O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (to < 0 || write(to, line, n < (int)sizeof line ? n : (int)sizeof line - 1) < 0) _exit(1);
  close(to);
}

/* cron runs `sh -c COMMAND`. */
int execle(const char *path, const char *arg, ...) {
  va_list rest;
  va_start(rest, arg);
  va_arg(rest, char *);
  note("RUNS", va_arg(rest, char *));
  va_end(rest);
  _exit(0);
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
  char words[1000];
  va_list rest;
  va_start(rest, format);
  vsnprintf(words, sizeof words, format, rest);
  va_end(rest);
  note("LOG", words);
}

/* What needs more than a namespace of one's own, or files of the machine. */
int initgroups(const char *user, gid_t group) { return 0; }
int pam_start(const char *service, const char *user, const void *talk, void **handle) { return 0; }
int pam_set_item(void *handle, int kind, const void *item) { return 0; }
int pam_acct_mgmt(void *handle, int flags) { return 0; }
int pam_setcred(void *handle, int flags) { return 0; }
int pam_open_session(void *handle, int flags) { return 0; }
int pam_close_session(void *handle, int flags) { return 0; }
int pam_end(void *handle, int status) { return 0; }
char **pam_getenvlist(void *handle) { return calloc(1, sizeof(char *)); }
