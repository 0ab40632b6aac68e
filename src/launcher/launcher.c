/* uv-mutex launcher: this program is called instead of uv. It passes on to the real uv each call that can't change a
 * project or finds it fresh, and all others to the Python side, which takes the locks. To the caller it looks as if the
 * real uv had been started: it changes no variable, signal or descriptor, and hands on argv byte by byte. It allocates
 * nothing: buffers have a fixed size, and what doesn't fit is an error, or is left to Python. */

#include "launcher.h"

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

/* Where programs are searched for if PATH is not set: os.defpath of Python. */
#define DEFAULT_PATH "/bin:/usr/bin"
/* LAUNCHER_MARKERS of executable.py: every launcher has one of these in its first bytes. */
static const char *const MARKERS[] = {"uv-mutex launcher", "uv-mutex front door"};
enum { HEAD_BYTES = 2048 };
#define PROGRAM "\177ELF" /* how one begins */

/* Leads from PREFIX/bin/uv to Python. Three lines: the interpreter, its options, the script (relative to this file). */
#define PYTHON_SIDE "/lib/uv-mutex/launcher"
/* The first word of a call that Python hands back, so that it waits here: CALL_TO_WAIT of native_launcher.py. */
#define CALL_TO_WAIT "uv-mutex"
/* Exit statuses: that of hooks/uv where the library is damaged, and one of errors.py. Ends of messages. */
enum { INCOMPLETE = 1, CANNOT_EXEC = 126 };
#define AGAIN "; install uv-mutex again with another Python"
#define IS_INCOMPLETE "%s is incomplete (%s%s%s); install it again, or remove that file"

/* As say() of src/uv_mutex/errors.py, but for odd characters, and with at most 16 KiB. */
__attribute__((noreturn, format(printf, 2, 3))) static void fail(int status, const char *format, ...)
{
    static char line[1 << 14] = "uv-mutex: ";
    va_list parts;
    va_start(parts, format);
    vsnprintf(line + strlen(line), sizeof line - strlen(line) - 1, format, parts);
    va_end(parts);
    for (char *at = line; *at; at++)
        *at = (unsigned char)*at < ' ' ? '?' : *at;
    (void)!write(STDERR_FILENO, line, strlen(strcat(line, "\n"))); /* a closed or full stderr changes nothing */
    _exit(status);
}

long read_beginning(const char *path, char *into, size_t size)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    long length = fd < 0 ? -1 : read(fd, into, size - 1);
    int error = errno;
    into[length < 0 ? 0 : length] = '\0';
    close(fd);
    errno = error;
    return length;
}

void cut_last_part(char *path)
{
    *(strrchr(path, '/') ?: path) = '\0';
}

static int is_executable(const char *path)
{
    struct stat status;
    return access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Whether this executable file is a launcher of uv-mutex, of any version and prefix: a script or a native one. */
static int is_launcher(const char *path)
{
    char head[HEAD_BYTES + 1];
    long length = read_beginning(path, head, sizeof head);
    if (strncmp(head, "#!", 2) != 0 && strncmp(head, PROGRAM, 4) != 0)
        return 0;
    for (size_t i = 0; i < LENGTH(MARKERS); i++)
        if (memmem(head, (size_t)length, MARKERS[i], strlen(MARKERS[i])))
            return 1;
    return 0;
}

/* The path of the real uv, which is the first `uv` on PATH that is no launcher of uv-mutex: as find() of
 * src/uv_mutex/uv/executable.py, which says why there is none where this returns NULL. */
static const char *find_real_uv(void)
{
    static char program[PATH_MAX];
    const char *named = getenv("UV_MUTEX_UV"), *path = getenv("PATH");
    if (named && *named)
        return is_executable(named) && !is_launcher(named) ? named : NULL;
    for (const char *next, *folder = path ? path : DEFAULT_PATH; folder; folder = next) {
        int length = (int)strcspn(folder, ":");
        next = folder[length] ? folder + length + 1 : NULL;
        /* An empty entry is the working directory, as for execvp(3). No file has a path that doesn't fit. */
        int fits = snprintf(program, sizeof program, "%.*s/uv", length ?: 1, length ? folder : ".") < PATH_MAX;
        if (fits && is_executable(program) && !is_launcher(program))
            return program;
    }
    return NULL;
}

/* Whether a program may look for the real uv and find this launcher: as may_start_shim() of executable.py. */
static int may_start_launcher(const char *path)
{
    static char real[PATH_MAX];
    char head[sizeof PROGRAM];
    const char *target = realpath(path, real) ? real : path, *slash = strrchr(target, '/');
    read_beginning(path, head, sizeof head);
    return strncmp(slash ? slash + 1 : target, "uv", 2) != 0 || strcmp(head, PROGRAM) != 0;
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

__attribute__((noreturn)) static void exec_real_uv(const char *uv, char **argv)
{
    *argv = (char[]){"uv"};
    execv(uv, argv);
    fail(CANNOT_EXEC, "cannot start %s: %s; check that file, or name another in UV_MUTEX_UV", uv, strerror(errno));
}

static void exec_python_side(int argc, char *const *argv)
{
    static char own[PATH_MAX], pointer[2 * PATH_MAX], lines[3 * PATH_MAX], script[6 * PATH_MAX];
    /* The path that the kernel was asked to start: an upgrade may have put another program there, an uninstall none. */
    const char *asked = (const char *)getauxval(AT_EXECFN);
    const char *advice = access("/proc/self", F_OK) == 0 ? "run this call again" : "mount /proc";
    if (!asked || !realpath(asked, own))
        fail(INCOMPLETE, "%s cannot find out where it lies: %s; %s", asked ? asked : "uv", strerror(errno), advice);
    strcpy(pointer, own);
    cut_last_part(pointer);
    cut_last_part(pointer);
    strcat(pointer, PYTHON_SIDE);
    const char *error = read_beginning(pointer, lines, sizeof lines) < 0 ? strerror(errno) : NULL;
    char *rest = lines, *interpreter = strsep(&rest, "\n"), *options = strsep(&rest, "\n"), *name = strsep(&rest, "\n");
    /* `rest` is NULL where the third line has no end. */
    if (!rest || *interpreter != '/' || *options != '-')
        fail(INCOMPLETE, IS_INCOMPLETE, own, pointer, error ? ": " : " is damaged", error ? error : "");
    cut_last_part(pointer);
    sprintf(script, "%s/%s", pointer, name);
    if (access(script, R_OK) != 0) /* Python would say it in words of its own */
        fail(INCOMPLETE, IS_INCOMPLETE, own, script, ": ", strerror(errno));
    char *was_at_gate = gate_option(argc && strcmp(*argv, CALL_TO_WAIT) == 0);
    char *head[] = {interpreter, options, "-X", ignored_signals(), "-X", was_at_gate, script};
    size_t count = argc > 1 ? (size_t)argc - 1 : 0;
    char *words[LENGTH(head) + count + 1]; /* on the stack, a quarter of which argv can fill at most */
    memcpy(words, head, sizeof head);
    memcpy(words + LENGTH(head), argv + argc - count, (count + 1) * sizeof *words); /* and the NULL behind them */
    execv(interpreter, words);
    fail(CANNOT_EXEC, "cannot start %s, the Python that guards this call: %s" AGAIN, interpreter, strerror(errno));
}

int main(int argc, char **argv)
{
    /* Python guards against endless loops: with programs that may start a launcher, and where it said so before. */
    const char *uv = getenv("UV_MUTEX_PASSED") ? NULL : find_real_uv();
    while (!argc || !uv || may_start_launcher(uv) || (may_be_guarded(argc, argv) && !is_fresh(uv, argv)))
        if (!pass_gate())
            exec_python_side(argc, argv);
    exec_real_uv(uv, argv);
}
