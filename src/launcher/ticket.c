/* Answer a fresh `uv run` or `uv sync` without Python: by the ticket that Python left for this form of call, which
 * src/uv_mutex/environment/ticket.py describes. Whatever is not as the ticket says is left to Python. Descriptors stay
 * open: exec closes them, which releases the locks. */

#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEAD "uv-mutex ticket 1"
/* With more than that, Python decides. RECORD_BYTES is the length at which it begins a new file of run records. */
enum { MOST_TRIES = 8, FORM_BYTES = 1 << 16, TICKET_BYTES = 1 << 18, RECORD_BYTES = 1 << 16 };

/* The lists of ticket.py. */
static const char *const COUNTED[] = {"VIRTUAL_ENV", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME"};
static const char *const IGNORED[] = {"UV_ENV_FILE", "UV_RUN_RECURSION_DEPTH"};
static const char *const APART[] = {"--env-file", "--with", "--with-editable", "--with-requirements", "-w"};
#define IS_IN(list, word) is_in(list, LENGTH(list), word)

/* What is digested: items, each ended by a zero byte. The variables come first. */
static char form[FORM_BYTES], boot[64];
static size_t form_bytes, variables_bytes;

static int open_folder(char *const *argv, char environment[PATH_MAX]);
static int ticket_holds(int folder, const char *kind);
static int leave_record(int folder, const char *kind);

static void add(const char *item)
{
    size_t bytes = strlen(item) + 1;
    if (bytes < FORM_BYTES - form_bytes)
        memcpy(form + form_bytes, item, bytes);
    form_bytes = bytes < FORM_BYTES - form_bytes ? form_bytes + bytes : FORM_BYTES;
}

/* Whether a list has this word, or what stands before its first `=`. */
static int is_in(const char *const *list, size_t count, const char *word)
{
    size_t length = strcspn(word, "=");
    while (count && (strncmp(list[count - 1], word, length) != 0 || list[count - 1][length]))
        count--;
    return count != 0;
}

/* Those that count, in an order that does not depend on the caller. */
static const char *variable_after(const char *last)
{
    const char *next = NULL;
    for (char **entry = environ; *entry; entry++)
        if ((strncmp(*entry, "UV_", 3) == 0 ? !IS_IN(IGNORED, *entry) : IS_IN(COUNTED, *entry)) &&
            strcmp(*entry, last) > 0 && (!next || strcmp(*entry, next) < 0))
            next = *entry;
    return next;
}

/* Whether a word may be a path. If not it is the name of a command, whatever files there are. */
static int is_script(const char *word)
{
    const char *suffix = strrchr(word, '.');
    return strchr(word, '/') || (suffix && strncasecmp(suffix, ".py", 3) == 0);
}

int is_fresh(const char *uv, char *const *argv)
{
    static char environment[PATH_MAX], working[PATH_MAX];
    int folder = open_folder(argv, environment), tries = 0;
    const char *kind = "sync", *home = getenv("HOME");
    /* In place of a closed stderr, a descriptor would get the message of fail(). */
    if (folder <= STDERR_FILENO || !home || !getcwd(working, sizeof working) ||
        read_beginning("/proc/sys/kernel/random/boot_id", boot, sizeof boot - 1) < 0)
        return 0;
    boot[strcspn(boot, "\n")] = '\0';
    for (const char *variable = ""; (variable = variable_after(variable));)
        add(variable);
    variables_bytes = form_bytes;
    const char *items[] = {HEAD, boot, uv, working, environment, home};
    for (size_t i = 0; i < LENGTH(items); i++)
        add(items[i]);
    /* Which word is the command of a `uv run`, only Python knows. But it leaves no ticket for another one. */
    for (char *const *word = argv + 1;; word++) {
        int is_run = *kind == 'r', is_last = is_run && strcmp(word[-1], "--") == 0;
        if (*word ? is_run && (is_last || **word != '-') : !is_run) {
            size_t before = form_bytes;
            add(!*word ? "whole" : is_script(*word) ? "script" : "command");
            add(*word && is_script(*word) ? *word : "");
            if (form_bytes < FORM_BYTES && ticket_holds(folder, kind))
                return leave_record(folder, kind);
            form_bytes = before;
            tries++;
        }
        if (!*word || is_last || tries == MOST_TRIES)
            return 0;
        if (strcmp(*word, "run") == 0)
            kind = "run";
        if (!IS_IN(APART, *word))
            add(*word);
        else if (!strchr(*word, '=') && word[1])
            word++;
    }
}

/* Open .uv-mutex in the environment that this call most probably uses: any other has no ticket for it. */
static int open_folder(char *const *argv, char environment[PATH_MAX])
{
    static char start[PATH_MAX], path[2 * PATH_MAX];
    const char *name = getenv("UV_PROJECT_ENVIRONMENT"), *from = ".";
    for (char *const *word = argv + 1; *word; word++)
        if (word[1] && (strcmp(*word, "--directory") == 0 || strcmp(*word, "--project") == 0))
            from = word[1];
    name = name && *name ? name : ".venv";
    if (!realpath(*name == '/' ? "/" : from, start))
        return -1;
    for (;; cut_last_part(start)) {
        int fits = snprintf(path, sizeof path, "%s/%s/.uv-mutex", start, name) < (int)sizeof path;
        int folder = fits ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        cut_last_part(path);
        if (folder >= 0 || !*start)
            return folder >= 0 && realpath(path, environment) ? folder : -1;
    }
}

/* Take a lock as one of many, unless it names an owner, who has died. It must be the file with this inode number. For
 * `-` it may be any or none, and is released at once: a turnstile, or a deeper level. */
static int take_shared(const char *inode, const char *path)
{
    struct stat found;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), is_passed = strcmp(inode, "-") == 0;
    if (fd < 0)
        return is_passed && errno == ENOENT;
    return flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) &&
           found.st_size == 0 && found.st_nlink && (is_passed ? !close(fd) : found.st_ino == strtoull(inode, NULL, 10));
}

static int line_holds(char *line)
{
    char now[128] = "-";
    struct stat found;
    const char *kind = strsep(&line, " "), *state = strsep(&line, " ");
    if (line && strcmp(kind, "lock") == 0)
        return take_shared(state, line);
    if (line && stat(line, &found) == 0)
        sprintf(now, "%lld/%lld/%lld/%llu", found.st_ctim.tv_sec * 1000000000LL + found.st_ctim.tv_nsec,
                found.st_mtim.tv_sec * 1000000000LL + found.st_mtim.tv_nsec, (long long)found.st_size,
                (unsigned long long)found.st_ino);
    return line && strcmp(kind, "file") == 0 && strcmp(state, now) == 0;
}

/* Whether there is a ticket for this form, and each of its lines holds. */
static int ticket_holds(int folder, const char *kind)
{
    static char text[TICKET_BYTES + 1];
    char name[64] = "ticket.", head[128] = HEAD " ", *rest = text;
    struct stat found;
    digest(form + variables_bytes, form_bytes - variables_bytes, name + strlen(name));
    digest(form, form_bytes, stpcpy(stpcpy(head + strlen(head), kind), " "));
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    /* Other users may be able to put a file there, but not in the name of this one. */
    if (fd < 0 || fstat(fd, &found) || !S_ISREG(found.st_mode) || found.st_uid != geteuid())
        return 0;
    long bytes = read(fd, text, TICKET_BYTES);
    if (bytes < 0 || bytes != found.st_size || memchr(text, '\0', (size_t)bytes))
        return 0;
    text[bytes] = '\0';
    int holds = strcmp(strsep(&rest, "\n"), head) == 0;
    while (holds && rest && strcmp(rest, "end\n") != 0)
        holds = line_holds(strsep(&rest, "\n"));
    return holds && rest;
}

/* As append() of src/uv_mutex/records/runs.py, in the environment. */
static int leave_record(int folder, const char *kind)
{
    char name[80], self[16] = "", text[2048] = "", line[256];
    struct stat namespace, found;
    struct timespec now;
    struct rlimit limit; /* a write beyond it would end the process */
    if (readlink("/proc/self", self, sizeof self - 1) < 0 || atoi(self) != getpid() ||
        stat("/proc/self/ns/pid", &namespace) || read_beginning("/proc/self/stat", text, sizeof text - 1) < 0 ||
        clock_gettime(CLOCK_REALTIME, &now) || fstatat(folder, "..", &found, 0) ||
        getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur < RECORD_BYTES)
        return 0;
    char *start = strrchr(text, ')'); /* the twentieth field behind the name is when the process started */
    for (int i = 0; start && i < 20; i++)
        start = strchr(start + 1, ' ');
    int bytes = sprintf(line, "%s/%llu/%d/%llu %s %lld.%03ld\n", boot, (unsigned long long)namespace.st_ino, getpid(),
                        start ? strtoull(start, NULL, 10) : 0, kind, (long long)now.tv_sec, now.tv_nsec / 1000000);
    sprintf(name, "runs.%s", boot);
    mode_t mask = umask(0), mode = (found.st_mode | 0600) & 0666;
    int fd = openat(folder, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode);
    umask(mask);
    return fd >= 0 && start && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) &&
           found.st_size + bytes <= RECORD_BYTES && write(fd, line, (size_t)bytes) == bytes;
}
