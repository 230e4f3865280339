/* Preloaded, it counts the syncs of the journal's WAL, and fails one when a file exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int sync_file(int fd, const char *name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (strstr(path, "journal.db-wal")) {
        const char *log = getenv("COUNT_FSYNC");
        const char *fail = getenv("FAIL_FSYNC");
        if (log) {
            int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
            if (write(out, ".", 1) != 1) abort();
            close(out);
        }
        if (fail && unlink(fail) == 0) {
            errno = EIO;
            return -1;
        }
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_file(fd, "fsync"); }
int fdatasync(int fd) { return sync_file(fd, "fdatasync"); }
