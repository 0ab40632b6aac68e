/* uv-mutex launcher: this program is called instead of uv. It passes on to the real uv each call that can't change a
 * project, and all others to the Python side, which takes the locks. To the caller it looks as if the real uv had been
 * started: it changes no variable, signal or descriptor, and hands on argv byte by byte.
 *
 * In an installed prefix, `uv-mutex install` writes this program and the file that leads to the Python side:
 *
 *     PREFIX/bin/uv
 *     PREFIX/lib/uv-mutex/launcher    three lines: the interpreter, its options, the script (relative to this folder)
 *
 * It allocates nothing. Buffers have a fixed size, and what doesn't fit is an error, or is left to Python. */

#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <unistd.h>

/* Launchers know each other by these words. In a note they stand at the beginning of the file, where any linker puts
 * notes, so that nobody has to read all of it. */
__attribute__((section(".note.uv-mutex"), used, aligned(4))) static const struct {
    uint32_t name_bytes, value_bytes, kind;
    char name[20];
} MARKER = {sizeof "uv-mutex launcher", 0, 1, "uv-mutex launcher"};

/* The words of src/uv_mutex/uv/option_table.py (GUARDED): without one of them no call is guarded. */
static const char *const GUARDED_WORDS[] = {"add", "check", "remove", "run", "sync", "upgrade", "version"};
/* The values of UV_MUTEX that switch the shim off, of src/uv_mutex/shim/main.py, in any case. */
static const char *const OFF_WORDS[] = {"off", "0", "false", "no"};

#define PYTHON_SIDE "/lib/uv-mutex/launcher"

static int may_be_guarded(int argc, char *const *argv);
static void exec_real_uv(const char *uv, char **argv);
static void exec_python_side(int argc, char *const *argv);
static void find_own_path(char path[PATH_MAX]);
static char *ignored_signals(void);

int main(int argc, char **argv)
{
    /* Python guards against endless loops: with programs that may start a launcher, and where it said so before. */
    if (getenv("UV_MUTEX_PASSED"))
        exec_python_side(argc, argv);
    const char *uv = find_real_uv();
    if (may_start_launcher(uv) || (may_be_guarded(argc, argv) && !is_fresh(uv, argv)))
        exec_python_side(argc, argv);
    exec_real_uv(uv, argv);
}

static int may_be_guarded(int argc, char *const *argv)
{
    const char *switched = getenv("UV_MUTEX"), *also = getenv("UV_MUTEX_ALSO");
    for (size_t i = 0; switched && i < LENGTH(OFF_WORDS); i++)
        if (strcasecmp(switched, OFF_WORDS[i]) == 0)
            return 0;
    for (int at = 1; at < argc; at++) {
        for (size_t i = 0; i < LENGTH(GUARDED_WORDS); i++)
            if (strcmp(argv[at], GUARDED_WORDS[i]) == 0)
                return 1;
        /* Further subcommands that the user wants guarded. Python reads that list; this only rules words out. */
        if (also && strstr(also, argv[at]))
            return 1;
    }
    return 0;
}

static void exec_real_uv(const char *uv, char **argv)
{
    static char name[] = "uv";
    char *alone[] = {NULL, NULL};
    argv = *argv ? argv : alone;
    *argv = name;
    execv(uv, argv);
    fail(CANNOT_EXEC, "cannot start ", uv, ": ", strerror(errno),
         "; check that file, or name another in UV_MUTEX_UV", NULL);
}

static void exec_python_side(int argc, char *const *argv)
{
    static char own[PATH_MAX], prefix[PATH_MAX], pointer[2 * PATH_MAX], lines[3 * PATH_MAX], script[6 * PATH_MAX];
    find_own_path(own);
    strcpy(prefix, own);
    cut_last_part(prefix);
    cut_last_part(prefix);
    sprintf(pointer, "%s" PYTHON_SIDE, prefix);
    long length = read_beginning(pointer, lines, sizeof lines - 1);
    if (length < 0)
        fail(INCOMPLETE, own, " is incomplete (", pointer, ": ", strerror(errno),
             "); install it again, or remove that file", NULL);
    lines[length] = '\0';
    char *rest = lines, *interpreter = strsep(&rest, "\n"), *options = strsep(&rest, "\n"), *name = strsep(&rest, "\n");
    cut_last_part(pointer);
    /* `rest` is NULL where the third line has no end. */
    if (!rest || *interpreter != '/' || *options != '-')
        fail(INCOMPLETE, own, " is incomplete (", prefix, PYTHON_SIDE,
             " is damaged); install it again, or remove that file", NULL);
    sprintf(script, "%s/%s", pointer, name);
    if (access(script, R_OK) != 0) /* Python would say it in words of its own */
        fail(INCOMPLETE, own, " is incomplete (", script, ": ", strerror(errno),
             "); install it again, or remove that file", NULL);

    char *head[] = {interpreter, options, "-X", ignored_signals(), script};
    size_t count = argc > 1 ? (size_t)argc - 1 : 0;
    char *words[LENGTH(head) + count + 1]; /* on the stack, a quarter of which argv can fill at most */
    memcpy(words, head, sizeof head);
    memcpy(words + LENGTH(head), argv + 1, count * sizeof *words);
    words[LENGTH(head) + count] = NULL;
    execv(interpreter, words);
    fail(CANNOT_EXEC, "cannot start ", interpreter, ", the Python that guards this call: ", strerror(errno),
         "; install uv-mutex again with another Python", NULL);
}

/* The path of this program without symlinks. A program that an upgrade has just replaced ends with " (deleted)". */
static void find_own_path(char path[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length > 0 && length < PATH_MAX - 1 && *path == '/') {
        path[length] = '\0';
        return;
    }
    /* No /proc: the path by which the kernel was asked to start it. */
    const char *asked = (const char *)getauxval(AT_EXECFN);
    if (!asked || !realpath(asked, path))
        fail(INCOMPLETE, asked ? asked : "the launcher", " cannot find out where it lies: ", strerror(errno),
             "; mount /proc", NULL);
}

/* Cut the last slash, and what follows it, off an absolute path. */
void cut_last_part(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = '\0';
}

/* The option that tells Python which signals the caller ignored, of those that every Python ignores from its start.
 * shim/child.py reads it. */
static char *ignored_signals(void)
{
    static char option[64] = "uv_mutex_ignored=";
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
        strcat(option, "SIGPIPE,");
    if (sigaction(SIGXFSZ, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
        strcat(option, "SIGXFSZ");
    return option;
}

/* How many bytes of a well-formed UTF-8 character begin here; 0 if none do. */
static int character_bytes(const unsigned char *at)
{
    int bytes = *at < 0x80 ? 1 : *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
    for (int i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) || (*at == 0xf0 && at[1] < 0x90) ||
        (*at == 0xf4 && at[1] > 0x8f))
        return 0;
    return bytes;
}

/* As say() of src/uv_mutex/errors.py: in one write, without line ends, each byte that is no UTF-8 as \xNN. A text of
 * more than 16 KiB is cut. */
void fail(int status, ...)
{
    static char line[1 << 14] = "uv-mutex: ";
    char *to = line + strlen(line), *end = line + sizeof line - 8;
    va_list parts;
    va_start(parts, status);
    for (const char *part; (part = va_arg(parts, const char *));) {
        while (*part && to < end) {
            int bytes = character_bytes((const unsigned char *)part);
            if (*part == '\n')
                to = stpcpy(to, "\\n");
            else if (!bytes)
                to += sprintf(to, "\\x%02x", (unsigned char)*part);
            else
                to = mempcpy(to, part, (size_t)bytes);
            part += bytes ? bytes : 1;
        }
    }
    va_end(parts);
    *to++ = '\n';
    ssize_t written = write(STDERR_FILENO, line, (size_t)(to - line));
    (void)written; /* a closed or full stderr changes nothing */
    _exit(status);
}
