#include "core/base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/str.h"

static int no_memory(const char *path, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: memory ran out", path);
}

/* what to do about the commonest reasons */
static const char *advice(int number)
{
    switch (number) {
    case ENOSPC: return "; free some space or choose another folder";
    case EDQUOT: return "; the disk quota is used up";
    case EACCES:
    case EPERM: return "; check the permissions or choose another folder";
    case EROFS: return "; choose a folder on a writable disk";
    case EMFILE: return "; raise the limit of open files (ulimit -n)";
    default: return "";
    }
}

static int io_error(err *e, const char *path, const char *doing, int number)
{
    return ERR(e, ERR_IO, "%s: %s: %s%s", path, doing, strerror(number), advice(number));
}

int fs_map_open(fs_map *m, const char *path, err *e)
{
    int rc = 0, fd = -1;
    struct stat st;
    memset(m, 0, sizeof *m);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        rc = io_error(e, path, "cannot open the file", errno);
        goto out;
    }
    if (fstat(fd, &st)) {
        rc = io_error(e, path, "cannot read the file's size", errno);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = ERR(e, ERR_IO, "%s: expected a file, found %s", path,
                 S_ISDIR(st.st_mode) ? "a folder" : "something that is not a plain file");
        goto out;
    }
    if (!(m->path = str_dup(path))) {
        rc = no_memory(path, e);
        goto out;
    }
    if (st.st_size > 0) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            rc = io_error(e, path, "cannot map the file into memory", errno);
            goto out;
        }
        m->data = data;
        m->size = (size_t)st.st_size;
    }
out:
    if (fd >= 0)
        close(fd);
    if (rc)
        fs_map_close(m);
    return rc;
}

void fs_map_close(fs_map *m)
{
    if (!m)
        return;
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    free(m->path);
    memset(m, 0, sizeof *m);
}

bool fs_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool fs_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *fs_join(const char *a, const char *b)
{
    if (!*a)
        return str_dup(b);
    while (*b == '/')
        b++;
    return str_format("%s%s%s", a, a[strlen(a) - 1] == '/' ? "" : "/", b);
}

const char *fs_basename(const char *path)
{
    const char *name = path;
    for (const char *p = path; *p; p++)
        if (*p == '/' && p[1] && p[1] != '/')
            name = p + 1;
    return name;
}

int fs_mkdirs(const char *path, err *e)
{
    int rc = 0;
    if (!*path)
        return ERR(e, ERR_IO, "cannot create a folder without a name");
    char *copy = str_dup(path);
    if (!copy)
        return no_memory(path, e);
    size_t n = strlen(copy);
    for (size_t i = 1; i <= n; i++) {
        if (copy[i] != '/' && copy[i] != '\0')
            continue;
        char kept = copy[i];
        copy[i] = '\0';
        if (mkdir(copy, 0777) && errno != EEXIST && !fs_is_dir(copy)) {
            rc = io_error(e, copy, "cannot create the folder", errno);
            goto out;
        }
        if (!fs_is_dir(copy)) {
            rc = ERR(e, ERR_IO, "%s: cannot create the folder: a file of that name is in the way", copy);
            goto out;
        }
        copy[i] = kept;
    }
out:
    free(copy);
    return rc;
}

int fs_read_text(char **out, size_t *len, const char *path, err *e)
{
    int rc = 0;
    char *text = NULL;
    size_t n = 0, cap = 0;
    struct stat st = { 0 };
    *out = NULL;
    if (len)
        *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return io_error(e, path, "cannot open the file", errno);
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        rc = ERR(e, ERR_IO, "%s: expected a file, found a folder", path);
        goto out;
    }
    cap = st.st_size > 0 && st.st_size < INT_MAX ? (size_t)st.st_size + 1 : 4096;
    for (;;) {
        if (!text || n == cap) {
            if (text)
                cap = cap * 2;
            char *more = cap > n ? realloc(text, cap + 1) : NULL;
            if (!more) {
                rc = no_memory(path, e);
                goto out;
            }
            text = more;
        }
        ssize_t got = read(fd, text + n, cap - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = io_error(e, path, "reading failed", errno);
            goto out;
        }
        if (!got)
            break;
        n += (size_t)got;
    }
    text[n] = '\0';
    *out = text;
    text = NULL;
    if (len)
        *len = n;
out:
    free(text);
    close(fd);
    return rc;
}

static int remove_tree(const char *path, int depth, err *e)
{
    struct stat st;
    int rc = 0;
    if (lstat(path, &st))
        return errno == ENOENT ? 0 : io_error(e, path, "cannot look at it to remove it", errno);
    if (!S_ISDIR(st.st_mode)) {
        if (unlink(path) && errno != ENOENT)
            return io_error(e, path, "cannot remove the file", errno);
        return 0;
    }
    if (depth > 64)
        return ERR(e, ERR_IO, "%s: not removed: more than 64 folders deep", path);
    DIR *dir = opendir(path);
    if (!dir)
        return io_error(e, path, "cannot open the folder to remove it", errno);
    struct dirent *entry;
    while (!rc && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *child = fs_join(path, entry->d_name);
        rc = child ? remove_tree(child, depth + 1, e) : no_memory(path, e);
        free(child);
    }
    closedir(dir);
    if (!rc && rmdir(path) && errno != ENOENT)
        rc = io_error(e, path, "cannot remove the folder", errno);
    return rc;
}

int fs_remove_tree(const char *path, err *e)
{
    size_t n = strspn(path, "/.");
    if (!path[n])
        return ERR(e, ERR_INTERNAL, "'%s': refused to remove it as a folder of ours", path);
    return remove_tree(path, 0, e);
}

/* the folder a path lies in, as a fresh string */
static char *parent_of(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n ? str_dupn(path, n) : str_dup(".");
}

int64_t fs_free_bytes(const char *path)
{
    struct statvfs v;
    int64_t bytes = -1;
    char *at = str_dup(path);
    while (at) {
        if (statvfs(at, &v) == 0) {
            bytes = (int64_t)v.f_bavail * (int64_t)v.f_frsize;
            break;
        }
        if (errno != ENOENT || strcmp(at, "/") == 0 || strcmp(at, ".") == 0)
            break;
        char *up = parent_of(at);
        free(at);
        at = up;
    }
    free(at);
    return bytes;
}

/* A rename is on the disk only when its folder is; some file systems cannot flush a folder, which is not a fault. */
static int sync_parent(const char *path, err *e)
{
    int rc = 0;
    char *folder = parent_of(path);
    if (!folder)
        return no_memory(path, e);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        if (fsync(fd) && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
            rc = io_error(e, folder, "cannot flush the folder to the disk", errno);
        close(fd);
    }
    free(folder);
    return rc;
}

static int write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n) {
        ssize_t done = write(fd, p, n > (1u << 30) ? 1u << 30 : n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : ENOSPC;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

int fs_publish(const char *part, const char *path, err *e)
{
    int number = 0, fd = open(part, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return io_error(e, part, "cannot open the finished file to flush it", errno);
    if (fsync(fd))
        number = errno;
    if (close(fd) && !number)
        number = errno;
    if (number)
        return io_error(e, part, "cannot flush the file to the disk", number);
    if (rename(part, path)) {
        number = errno;
        return ERR(e, ERR_IO, "%s: cannot give the file its final name '%s': %s%s", part, path,
                   fs_is_dir(path) ? "a folder of that name is in the way" : strerror(number), advice(number));
    }
    return sync_parent(path, e);
}

int fs_write_atomic(const char *path, const void *bytes, size_t n, err *e)
{
    int rc = 0, fd = -1, number;
    char *part = str_format("%s.part", path);
    if (!part)
        return no_memory(path, e);
    fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = io_error(e, part, "cannot create the file", errno);
        goto out;
    }
    number = write_all(fd, bytes, n);
    if (close(fd) && !number)
        number = errno;
    if (number) {
        rc = ERR(e, ERR_IO, "%s: writing %zu bytes failed: %s%s", path, n, strerror(number), advice(number));
        unlink(part);
        goto out;
    }
    rc = fs_publish(part, path, e);
    if (rc)
        unlink(part);
out:
    free(part);
    return rc;
}

int fs_append_line(const char *path, const char *line, err *e)
{
    int rc = 0, number = 0;
    struct stat st;
    ssize_t done;
    size_t n = strlen(line);
    bool fresh = !fs_exists(path);
    char *text = str_format("%s\n", line);
    if (!text)
        return no_memory(path, e);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
        rc = io_error(e, path, "cannot open the file to append to it", errno);
        goto out;
    }
    if (fstat(fd, &st)) {
        rc = io_error(e, path, "cannot read the file's size", errno);
        goto out;
    }
    do
        done = write(fd, text, n + 1);
    while (done < 0 && errno == EINTR);
    if (done < 0)
        number = errno;
    else if ((size_t)done != n + 1)
        number = ENOSPC;
    if (!number && fdatasync(fd) && errno != EINVAL)
        number = errno;
    if (number) {
        /* no half line stays: the file is read line by line. Only a plain file can be cut back. */
        if (done > 0 && S_ISREG(st.st_mode) && ftruncate(fd, st.st_size))
            rc = ERR(e, ERR_IO, "%s: appending a line failed half-way and could not be undone: %s", path,
                     strerror(number));
        else
            rc = ERR(e, ERR_IO, "%s: appending a line of %zu bytes failed: %s%s", path, n + 1, strerror(number),
                     advice(number));
        goto out;
    }
out:
    if (fd >= 0 && close(fd) && !rc)
        rc = io_error(e, path, "cannot close the file", errno);
    if (!rc && fresh)
        rc = sync_parent(path, e);
    free(text);
    return rc;
}
