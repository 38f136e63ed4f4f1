// SPDX-License-Identifier: Apache-2.0
// Preloaded into a program (LD_PRELOAD), it writes down every change that the program makes below a folder, in order:
// writes with their bytes, cuts, flushes, and what happens to names. crash_states.py reads it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_length;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  const char *file = getenv("DISK_LOG"), *folder = getenv("DISK_ROOT");
  if (!file || !folder) return;
  snprintf(root, sizeof root, "%s/", folder);
  root_length = strlen(root);
  log_fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int inside(const char *path) { return log_fd >= 0 && strncmp(path, root, root_length) == 0; }

static void put(const void *data, size_t size) {
  const char *at = data;
  while (size > 0) {
    ssize_t written = syscall(SYS_write, log_fd, at, size);
    if (written <= 0) return;
    at += written, size -= written;
  }
}

static void note(char kind, const char *path, const char *other, uint64_t offset, const void *data, uint64_t size) {
  int saved = errno;
  uint32_t lengths[2] = {strlen(path), strlen(other)};
  uint64_t numbers[2] = {offset, size};
  pthread_mutex_lock(&lock);
  put(&kind, 1), put(lengths, sizeof lengths), put(numbers, sizeof numbers);
  put(path, lengths[0]), put(other, lengths[1]);
  if (data) put(data, size);
  pthread_mutex_unlock(&lock);
  errno = saved;
}

static int path_of(int fd, char *path) {
  char link[64];
  int saved = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  errno = saved;
  if (log_fd < 0 || length < 0) return 0;
  path[length] = 0;
  if ((size_t)length == root_length - 1 && strncmp(path, root, length) == 0) return 1;  // the folder itself
  return inside(path) && !strstr(path, " (deleted)");
}

static void resolve(int folder, const char *name, char *path) {
  char base[PATH_MAX] = "";
  if (name[0] == '/') { snprintf(path, PATH_MAX, "%s", name); return; }
  if (folder == AT_FDCWD) { if (!getcwd(base, sizeof base)) base[0] = 0; }
  else path_of(folder, base);
  if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) path[0] = 0;
}

static void opened(int folder, const char *name, int flags, int existed, int fd) {
  char path[PATH_MAX];
  if (log_fd < 0 || fd < 0 || !(flags & (O_CREAT | O_TRUNC))) return;
  resolve(folder, name, path);
  if (!inside(path)) return;
  if (!existed) note('c', path, "", 0, 0, 0);
  else if (flags & O_TRUNC) note('t', path, "", 0, 0, 0);
}

static int open_at(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat found;
  int existed = 1;
  if (log_fd >= 0 && (flags & O_CREAT)) {
    resolve(folder, name, path);
    existed = stat(path, &found) == 0;
  }
  int fd = syscall(SYS_openat, folder, name, flags, mode);
  opened(folder, name, flags, existed, fd);
  return fd;
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return open_at(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return open_at(folder, name, flags | O_LARGEFILE, mode); }

ssize_t write(int fd, const void *data, size_t size) {
  char path[PATH_MAX];
  ssize_t done = syscall(SYS_write, fd, data, size);
  if (done > 0 && path_of(fd, path)) note('w', path, "", lseek(fd, 0, SEEK_CUR) - done, data, done);
  return done;
}
static ssize_t write_at(int fd, const void *data, size_t size, off_t offset) {
  char path[PATH_MAX];
  ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
  if (done > 0 && path_of(fd, path)) note('w', path, "", offset, data, done);
  return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return write_at(fd, data, size, offset); }

static int cut(int fd, off_t size) {
  char path[PATH_MAX];
  int failed = syscall(SYS_ftruncate, fd, size);
  if (!failed && path_of(fd, path)) note('t', path, "", size, 0, 0);
  return failed;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }
int truncate(const char *name, off_t size) {
  char path[PATH_MAX];
  int failed = syscall(SYS_truncate, name, size);
  resolve(AT_FDCWD, name, path);
  if (!failed && inside(path)) note('t', path, "", size, 0, 0);
  return failed;
}

static int flushed(int fd, int failed) {
  char path[PATH_MAX];
  if (!failed && path_of(fd, path)) note('f', path, "", 0, 0, 0);
  return failed;
}
// Not passed on: only the order counts here, and a flush of a real disk costs milliseconds.
int fsync(int fd) { return flushed(fd, log_fd < 0 ? REAL(fsync)(fd) : 0); }
int fdatasync(int fd) { return flushed(fd, log_fd < 0 ? REAL(fdatasync)(fd) : 0); }

static int named(char kind, int failed, int folder, const char *name, int other_folder, const char *other) {
  char path[PATH_MAX], second[PATH_MAX] = "";
  if (failed || log_fd < 0) return failed;
  resolve(folder, name, path);
  if (other) resolve(other_folder, other, second);
  if (inside(path) || inside(second)) note(kind, path, second, 0, 0, 0);
  return failed;
}
int rename(const char *from, const char *to) { return named('r', REAL(rename)(from, to), AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return named('r', REAL(renameat)(a, from, b, to), a, from, b, to); }
int link(const char *from, const char *to) { return named('l', REAL(link)(from, to), AT_FDCWD, from, AT_FDCWD, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return named('l', REAL(linkat)(a, from, b, to, flags), a, from, b, to); }
int unlink(const char *name) { return named('u', REAL(unlink)(name), AT_FDCWD, name, 0, 0); }
int unlinkat(int folder, const char *name, int flags) { return named('u', REAL(unlinkat)(folder, name, flags), folder, name, 0, 0); }
int rmdir(const char *name) { return named('u', REAL(rmdir)(name), AT_FDCWD, name, 0, 0); }
int mkdir(const char *name, mode_t mode) { return named('m', REAL(mkdir)(name, mode), AT_FDCWD, name, 0, 0); }
int mkdirat(int folder, const char *name, mode_t mode) { return named('m', REAL(mkdirat)(folder, name, mode), folder, name, 0, 0); }
