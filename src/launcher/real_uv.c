/* Find the real uv, which is the first `uv` on PATH that is no launcher of uv-mutex: as find() of
 * src/uv_mutex/uv/executable.py, with the same messages. */

#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where programs are searched for if PATH is not set: os.defpath of Python. */
#define DEFAULT_PATH "/bin:/usr/bin"

/* LAUNCHER_MARKERS of executable.py: every launcher has one of these in its first bytes. */
static const char *const MARKERS[] = {"uv-mutex launcher", "uv-mutex front door"};
enum { HEAD_BYTES = 2048 };
/* How a program begins, and a script. */
#define PROGRAM "\177ELF"
#define SCRIPT "#!"

static void check_named(const char *path);
static int program_in(const char *folder, size_t length, char program[PATH_MAX]);
static int is_executable(const char *path);
static int is_launcher(const char *path);

const char *find_real_uv(void)
{
    static char program[PATH_MAX], first_launcher[PATH_MAX];
    const char *named = getenv("UV_MUTEX_UV"), *path = getenv("PATH");
    if (named && *named) {
        check_named(named);
        return named;
    }
    for (const char *next, *folder = path ? path : DEFAULT_PATH; folder; folder = next) {
        const char *end = strchrnul(folder, ':');
        next = *end ? end + 1 : NULL;
        if (!program_in(folder, (size_t)(end - folder), program))
            continue;
        if (!is_launcher(program))
            return program;
        if (!*first_launcher)
            strcpy(first_launcher, program);
    }
    fail(NO_UV, "no uv on PATH", *first_launcher ? " besides the shim " : "", first_launcher,
         "; install uv, or name it in UV_MUTEX_UV", NULL);
}

static void check_named(const char *path)
{
    const char *problem = access(path, F_OK)     ? " does not exist"
                          : !is_executable(path) ? " is not an executable file"
                          : is_launcher(path)    ? " is a uv-mutex shim itself"
                                                 : NULL;
    if (problem)
        fail(NO_UV, "UV_MUTEX_UV=", path, problem, "; set it to the real uv, or unset it", NULL);
}

/* Write the path of the program in this entry of PATH, as execvp(3) reads it: an empty entry is the working directory.
 * Return whether there is such a program. No file has a path that doesn't fit. */
static int program_in(const char *folder, size_t length, char program[PATH_MAX])
{
    if (length == 0)
        return is_executable(strcpy(program, "./uv"));
    if (length + sizeof "/uv" > PATH_MAX)
        return 0;
    strcpy(mempcpy(program, folder, length), "/uv");
    return is_executable(program);
}

static int is_executable(const char *path)
{
    struct stat status;
    return access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Whether this executable file is a launcher of uv-mutex, of any version and prefix: a script or a native one. */
static int is_launcher(const char *path)
{
    char head[HEAD_BYTES];
    long length = read_beginning(path, head, sizeof head);
    if (length < 4 || (memcmp(head, SCRIPT, 2) != 0 && memcmp(head, PROGRAM, 4) != 0))
        return 0;
    for (size_t i = 0; i < sizeof MARKERS / sizeof *MARKERS; i++)
        if (memmem(head, (size_t)length, MARKERS[i], strlen(MARKERS[i])))
            return 1;
    return 0;
}

int may_start_launcher(const char *path)
{
    static char real[PATH_MAX];
    char head[4];
    const char *target = realpath(path, real) ? real : path, *slash = strrchr(target, '/');
    return strncmp(slash ? slash + 1 : target, "uv", 2) != 0 || read_beginning(path, head, sizeof head) != 4 ||
           memcmp(head, PROGRAM, 4) != 0;
}

long read_beginning(const char *path, char *into, size_t limit)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -1;
    long length = read(fd, into, limit);
    int error = errno;
    close(fd);
    errno = error;
    return length;
}
