/* A disk whose power may fail: loaded before libc, it notes every write to the database and its log, every
   sync of them, and every byte sent on a socket, in one order, in the file named by POWER_TRACE. A test makes
   from that what a disk could hold at any moment.

   Of one call: its kind, the file (0 the database, 1 its log, 2 a socket), the offset and the length, then the
   bytes. Writes and sends are noted before they are made; a sync when it begins and when it has returned, both
   with its number in the place of the offset. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct head { uint8_t kind, file, pad[6]; uint64_t offset, length; };

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int trace(void) {
    static int file = -1;
    if (file < 0) {
        const char *path = getenv("POWER_TRACE");
        if (path == NULL) abort();
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (file < 0) abort();
    }
    return file;
}

static void put(const void *bytes, size_t length) {
    ssize_t (*write_)(int, const void *, size_t) = real("write");
    while (length > 0) {
        ssize_t done = write_(trace(), bytes, length);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done;
        length -= done;
    }
}

static void note(char kind, int file, uint64_t offset, const struct iovec *parts, int count) {
    struct head head = {.kind = kind, .file = file, .offset = offset};
    for (int i = 0; i < count; i++) head.length += parts[i].iov_len;
    pthread_mutex_lock(&order);
    put(&head, sizeof head);
    for (int i = 0; i < count; i++) put(parts[i].iov_base, parts[i].iov_len);
    pthread_mutex_unlock(&order);
}

static int ends_with(const char *text, const char *end) {
    size_t all = strlen(text), last = strlen(end);
    return all >= last && strcmp(text + all - last, end) == 0;
}

/* Number of this file, or -1. */
static int which(int fd) {
    char link[64], path[4096];
    struct stat about;
    if (fstat(fd, &about) != 0) return -1;
    if (S_ISSOCK(about.st_mode)) return 2;
    if (!S_ISREG(about.st_mode)) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return -1;
    path[length] = 0;
    return ends_with(path, ".db") ? 0 : ends_with(path, ".db-wal") ? 1 : -1;
}

static void note_bytes(int fd, const struct iovec *parts, int count, off_t offset) {
    int file = which(fd);
    if (file < 0) return;
    if (file < 2 && offset < 0) offset = lseek(fd, 0, SEEK_CUR);
    note(file == 2 ? 'A' : 'W', file, file == 2 ? 0 : (uint64_t)offset, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    struct iovec part = {(void *)bytes, length};
    note_bytes(fd, &part, 1, offset);
    return ((ssize_t (*)(int, const void *, size_t, off64_t))real("pwrite64"))(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct iovec part = {(void *)bytes, length};
    note_bytes(fd, &part, 1, -1);
    return ((ssize_t (*)(int, const void *, size_t))real("write"))(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    note_bytes(fd, parts, count, -1);
    return ((ssize_t (*)(int, const struct iovec *, int))real("writev"))(fd, parts, count);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    struct iovec part = {(void *)bytes, length};
    note_bytes(fd, &part, 1, -1);
    return ((ssize_t (*)(int, const void *, size_t, int))real("send"))(fd, bytes, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    note_bytes(fd, message->msg_iov, (int)message->msg_iovlen, -1);
    return ((ssize_t (*)(int, const struct msghdr *, int))real("sendmsg"))(fd, message, flags);
}

int ftruncate64(int fd, off64_t length) {
    int file = which(fd);
    if (file == 0 || file == 1) note('T', file, (uint64_t)length, NULL, 0);
    return ((int (*)(int, off64_t))real("ftruncate64"))(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_of(int fd, const char *name) {
    static uint64_t syncs;
    int file = which(fd);
    int ours = file == 0 || file == 1;
    uint64_t number = __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST);
    if (ours) note('B', file, number, NULL, 0);
    int done = ((int (*)(int))real(name))(fd);
    if (ours && done == 0) note('E', file, number, NULL, 0);
    return done;
}

int fsync(int fd) { return sync_of(fd, "fsync"); }

int fdatasync(int fd) { return sync_of(fd, "fdatasync"); }
