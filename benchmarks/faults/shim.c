/* Preloaded before libc: counts what a process changes below one folder, and ends the process or fails the call there.

   Off until fault_arm() is called, which the harness does in each child after the fork. Calls that libc makes within
   itself pass by, but for the write that a buffered file does at last: that shows in fwrite, fflush and fclose. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, FAIL, FAIL_ON };

static _Atomic int mode = OFF;
static _Atomic long seen = 0;
static long target = 0;
static int code = 0;
static int log_to = -1;
static char root[PATH_MAX];
static size_t root_length = 0;

void fault_arm(int how, long at, int error, const char *folder, int log)
{
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    seen = 0;
    target = at;
    code = error;
    log_to = log;
    mode = how;
}

long fault_seen(void) { return seen; }

static int below(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int named(int folder, const char *path, char *whole)
{
    char link[64];
    ssize_t length = 0;
    if (path == NULL)
        return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
        return below(whole);
    }
    if (folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, whole, PATH_MAX - 2);
    if (length < 0)
        return 0;
    snprintf(whole + length, PATH_MAX - length, "/%s", path);
    return below(whole);
}

static int opened(int file, char *whole)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, whole, PATH_MAX - 1);
    if (length <= 0)
        return 0;
    whole[length] = 0;
    return below(whole);
}

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* 0: go on; 1: fail with errno set; 2: this is the moment to be killed. `grows`: needs room on the disk. */
static int moment(const char *what, const char *path, int grows)
{
    if (mode == OFF)
        return 0;
    int kept = errno;
    long number = ++seen;
    if (mode == COUNT && log_to >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s %s\n", what, path);
        syscall(SYS_write, log_to, line, (size_t)length);
    }
    errno = kept;
    if (mode == KILL && number == target)
        return 2;
    if ((mode == FAIL && number == target) || (mode == FAIL_ON && number >= target && grows)) {
        errno = code;
        return 1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define GUARD(inside, what, grows, failed)            \
    do {                                              \
        if (mode != OFF && (inside)) {                \
            int is = moment(what, whole, grows);      \
            if (is == 2)                              \
                die();                                \
            if (is == 1)                              \
                return failed;                        \
        }                                             \
    } while (0)
#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))

/* The mode that an open has beside its flags, where it makes a file. */
#define MODE_GIVEN(given, flags)                      \
    mode_t given = 0;                                 \
    if (flags & (O_CREAT | O_TMPFILE)) {              \
        va_list rest;                                 \
        va_start(rest, flags);                        \
        given = va_arg(rest, mode_t);                 \
        va_end(rest);                                 \
    }

#define OPEN(name)                                                                \
    int name(const char *path, int flags, ...)                                    \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        MODE_GIVEN(given, flags);                                                 \
        GUARD(WRITES(flags) && named(AT_FDCWD, path, whole), "open", 1, -1);      \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, given); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                              \
    int name(int folder, const char *path, int flags, ...)                        \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        MODE_GIVEN(given, flags);                                                 \
        GUARD(WRITES(flags) && named(folder, path, whole), "open", 1, -1);        \
        return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name))(folder, path, flags, given); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                               \
    FILE *name(const char *path, const char *how)                                 \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        GUARD((how[0] != 'r' || strchr(how, '+')) && named(AT_FDCWD, path, whole), "open", 1, NULL); \
        return ((FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name))(path, how); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int file, const void *data, size_t size)
{
    char whole[PATH_MAX];
    if (mode != OFF && opened(file, whole)) {
        int is = moment("write", whole, 1);
        if (is == 2) {
            syscall(SYS_write, file, data, size / 2);
            die();
        }
        if (is == 1)
            return -1;
    }
    return REAL(write)(file, data, size);
}

#define PWRITE(name, place)                                                       \
    ssize_t name(int file, const void *data, size_t size, place where)            \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        GUARD(opened(file, whole), "write", 1, -1);                               \
        return ((ssize_t(*)(int, const void *, size_t, place))dlsym(RTLD_NEXT, #name))(file, data, size, where); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int file, const struct iovec *parts, int count)
{
    char whole[PATH_MAX];
    GUARD(opened(file, whole), "write", 1, -1);
    return REAL(writev)(file, parts, count);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file)
{
    char whole[PATH_MAX];
    GUARD(file != stdout && file != stderr && opened(fileno(file), whole), "write", 1, 0);
    return REAL(fwrite)(data, size, count, file);
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *end, size_t size, unsigned int flags)
{
    char whole[PATH_MAX];
    GUARD(opened(to, whole), "write", 1, -1);
    return REAL(copy_file_range)(from, start, to, end, size, flags);
}

#define SENDFILE(name, place)                                                     \
    ssize_t name(int to, int from, place *start, size_t size)                     \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        GUARD(opened(to, whole), "write", 1, -1);                                 \
        return ((ssize_t(*)(int, int, place *, size_t))dlsym(RTLD_NEXT, #name))(to, from, start, size); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

#define ON_FILE(name, what, grows, declared, passed)                              \
    int name declared                                                             \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        GUARD(opened(file, whole), what, grows, -1);                              \
        return ((int(*) declared)dlsym(RTLD_NEXT, #name))passed;                  \
    }
ON_FILE(fsync, "fsync", 0, (int file), (file))
ON_FILE(fdatasync, "fsync", 0, (int file), (file))
ON_FILE(ftruncate, "truncate", 1, (int file, off_t size), (file, size))
ON_FILE(ftruncate64, "truncate", 1, (int file, off64_t size), (file, size))
ON_FILE(posix_fallocate, "truncate", 1, (int file, off_t from, off_t size), (file, from, size))
ON_FILE(posix_fallocate64, "truncate", 1, (int file, off64_t from, off64_t size), (file, from, size))
ON_FILE(fchmod, "chmod", 0, (int file, mode_t to), (file, to))

#define ON_PATH(name, what, grows, folder, path, declared, passed)                \
    int name declared                                                             \
    {                                                                             \
        char whole[PATH_MAX];                                                     \
        GUARD(named(folder, path, whole), what, grows, -1);                       \
        return ((int(*) declared)dlsym(RTLD_NEXT, #name))passed;                  \
    }
ON_PATH(rename, "rename", 0, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(renameat, "rename", 0, b, to, (int a, const char *from, int b, const char *to), (a, from, b, to))
ON_PATH(renameat2, "rename", 0, b, to, (int a, const char *from, int b, const char *to, unsigned int f), (a, from, b, to, f))
ON_PATH(link, "link", 1, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(linkat, "link", 1, b, to, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f))
ON_PATH(symlink, "link", 1, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(unlink, "unlink", 0, AT_FDCWD, path, (const char *path), (path))
ON_PATH(unlinkat, "unlink", 0, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
ON_PATH(remove, "unlink", 0, AT_FDCWD, path, (const char *path), (path))
ON_PATH(mkdir, "mkdir", 1, AT_FDCWD, path, (const char *path, mode_t how), (path, how))
ON_PATH(mkdirat, "mkdir", 1, folder, path, (int folder, const char *path, mode_t how), (folder, path, how))
ON_PATH(rmdir, "rmdir", 0, AT_FDCWD, path, (const char *path), (path))
ON_PATH(truncate, "truncate", 1, AT_FDCWD, path, (const char *path, off_t size), (path, size))
ON_PATH(chmod, "chmod", 0, AT_FDCWD, path, (const char *path, mode_t to), (path, to))
