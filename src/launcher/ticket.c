/* Answer a fresh `uv run` or `uv sync` without Python: by the ticket that Python left for this form of call, which
 * src/uv_mutex/environment/ticket.py describes. Of equal calls without a ticket, one at a time passes the gate of their
 * form (gate.py), waits until no other call works, and starts Python. The others wait for that one, in a tenth of its
 * memory, for a ticket. What isn't plain is left to Python. Descriptors stay open: exec closes them, and so unlocks. */

#include "launcher.h"

#define HEAD "uv-mutex ticket 1"
/* With more than that, Python decides. GROWN_BYTES is the length at which it begins a new file of records or calls. */
enum { MOST_TRIES = 8, FORM_BYTES = 1 << 16, TICKET_BYTES = 1 << 18, GROWN_BYTES = 1 << 16 };
/* In ticks. As wait.py: a wait is said after 2 s, and every 30 s. As session.py: a LONG_WAIT is written down. A gate
 * leads nowhere if at so many ticks of a wait there, in all, nobody holds the lock: MOST_IDLE. */
enum { MOST_IDLE = 4, TICK_US = 500000, FIRST_LINE = 4, NEXT_LINE = 60, LONG_WAIT_US = 50000 };

/* The lists of call_form.py. */
static const char *const COUNTED[] = {"VIRTUAL_ENV", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME"};
static const char *const IGNORED[] = {"UV_ENV_FILE", "UV_RUN_RECURSION_DEPTH"};
static const char *const APART[] = {"--env-file", "--with", "--with-editable", "--with-requirements", "-w"};
#define IS_IN(list, word) is_in(list, LENGTH(list), word)

/* What is digested: items, each ended by a zero byte. First the environment, then the variables, then the others. */
static char form[FORM_BYTES], boot[64];
static size_t form_bytes, variables, others;
static char text[TICKET_BYTES + 1], *rest, form_file[64];
/* The project's folder of ours, the gate in it, how many seconds this call may wait, and since when it does. */
static int project = -1, gate = -1, is_held, is_quiet, taken = -1;
static double limit, since;

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

/* Open the nearest folder NAME/.uv-mutex above the place where this call begins. For an environment: that which this
 * call most probably uses, since any other has no ticket for it. */
static int open_above(char *const *argv, const char *name, char found[PATH_MAX])
{
    static char start[PATH_MAX], path[2 * PATH_MAX];
    const char *from = ".";
    for (char *const *word = argv + 1; *word; word++)
        if (word[1] && (strcmp(*word, "--directory") == 0 || strcmp(*word, "--project") == 0))
            from = word[1];
    if (!realpath(*name == '/' ? "/" : from, start))
        return -1;
    for (;; cut_last_part(start)) {
        int fits = snprintf(path, sizeof path, "%s/%s/.uv-mutex", start, name) < (int)sizeof path;
        int folder = fits ? open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        cut_last_part(path);
        if (folder >= 0 || !*start)
            return folder >= 0 && realpath(path, found) ? folder : -1;
    }
}

/* Read a file that Python left for this form, with the digest of all from one item on. Return its descriptor, or -1. */
static int open_of_form(int folder, const char *prefix, const char *kind, size_t from)
{
    char head[128] = HEAD " ";
    struct stat found;
    digest(form + others, form_bytes - others, stpcpy(form_file, prefix));
    digest(form + from, form_bytes - from, stpcpy(stpcpy(head + strlen(head), kind), " "));
    int fd = openat(folder, form_file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    long bytes = fd < 0 ? -1 : read(fd, text, TICKET_BYTES);
    text[bytes > 0 ? bytes : 0] = '\0';
    rest = text;
    /* Other users may be able to put a file there, but not in the name of this one. */
    int is_ours = bytes > 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_uid == geteuid();
    return is_ours && strlen(text) == (size_t)found.st_size && !strcmp(strsep(&rest, "\n"), head) && rest ? fd : -1;
}

/* Take a lock as one of many, unless it names an owner, who has died. It must be the file with this inode number. For
 * `-` it may be any or none, and is released at once: a turnstile, or a deeper level. */
static int take_shared(const char *inode, const char *path)
{
    struct stat found;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), is_passed = strcmp(inode, "-") == 0;
    if (fd < 0)
        return is_passed && errno == ENOENT;
    taken = is_passed ? taken : fd;
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
    int holds = open_of_form(folder, "ticket.", kind, 0) >= 0;
    while (holds && rest && strcmp(rest, "end\n") != 0)
        holds = line_holds(strsep(&rest, "\n"));
    return holds && rest;
}

static int has_gate(const char *kind)
{
    gate = open_of_form(project, "gate.", kind, variables);
    gate = gate < 0 || sscanf(rest, "%d %lf", &is_quiet, &limit) != 2 ? -1 : gate;
    return gate >= 0;
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Append to a file of ours, with the permissions of the folder above, as far as allowed; return whether that worked. */
static int append(int folder, const char *name, int flags, mode_t allowed, const char *line, int bytes)
{
    struct stat found;
    struct rlimit most; /* a write beyond it would end the process */
    if (fstatat(folder, "..", &found, 0) || getrlimit(RLIMIT_FSIZE, &most) || most.rlim_cur < GROWN_BYTES)
        return 0;
    mode_t mask = umask(0), mode = (found.st_mode | 0600) & allowed;
    int fd = openat(folder, name, flags | O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode);
    umask(mask);
    return fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size + bytes <= GROWN_BYTES &&
           write(fd, line, (size_t)bytes) == bytes;
}

/* As append() of src/uv_mutex/records/runs.py, in the environment; after a long wait also as that of history.py. */
static int leave_record(int folder, const char *kind)
{
    char name[80], status[2048], line[256], *start;
    double now = seconds(CLOCK_REALTIME), waited = since ? seconds(CLOCK_MONOTONIC) - since : 0;
    struct stat namespace;
    struct utsname host;
    if (read_beginning("/proc/self/stat", status, sizeof status) < 0 || atoi(status) != getpid() || uname(&host) ||
        stat("/proc/self/ns/pid", &namespace))
        return 0;
    start = strrchr(status, ')'); /* the twentieth field behind the name is when the process started */
    for (int i = 0; start && i < 20; i++)
        start = strchr(start + 1, ' ');
    sprintf(name, "runs.%s", boot);
    int bytes = sprintf(line, "%s/%llu/%d/%llu %s %.3f\n", boot, (unsigned long long)namespace.st_ino, getpid(),
                        start ? strtoull(start, NULL, 10) : 0, kind, now);
    if (!start || !append(folder, name, 0, 0666, line, bytes))
        return 0;
    sprintf(name, "calls.%s", host.nodename);
    bytes = sprintf(line, "%.3f\t%.3f\t%.3f\t0\t0\t-\t%d\tlock\tuv %s\n", now, now - waited, waited, getpid(), kind);
    return waited * 1e6 < LONG_WAIT_US || append(project, name, 0, 0666, line, bytes);
}

int is_fresh(const char *uv, char *const *argv)
{
    static char environment[PATH_MAX], working[PATH_MAX];
    const char *name = getenv("UV_PROJECT_ENVIRONMENT"), *kind = "sync", *home = getenv("HOME");
    int folder = open_above(argv, name && *name ? name : ".venv", environment), tries = 0;
    project = project < 0 ? open_above(argv, ".", working) : project;
    /* In place of a closed stderr, a descriptor would get the message of fail(). */
    if ((unsigned)folder <= STDERR_FILENO || (unsigned)project <= STDERR_FILENO || !home ||
        !getcwd(working, sizeof working) || read_beginning("/proc/sys/kernel/random/boot_id", boot, sizeof boot) < 0)
        return 0;
    boot[strcspn(boot, "\n")] = '\0';
    form_bytes = 0;
    add(environment);
    variables = form_bytes;
    for (const char *variable = ""; (variable = variable_after(variable));)
        add(variable);
    others = form_bytes;
    add(HEAD), add(boot), add(uv), add(working), add(home);
    /* Which word is the command of a `uv run`, only Python knows. But it leaves no file for another form. */
    for (char *const *word = argv + 1;; word++) {
        int is_run = *kind == 'r', is_last = is_run && strcmp(word[-1], "--") == 0;
        if (*word ? is_run && (is_last || **word != '-') : !is_run) {
            size_t before = form_bytes;
            add(!*word ? "whole" : is_script(*word) ? "script" : "command");
            add(*word && is_script(*word) ? *word : "");
            if (form_bytes < FORM_BYTES && ticket_holds(folder, kind))
                return leave_record(folder, kind);
            if ((!is_held && form_bytes < FORM_BYTES && has_gate(kind)) || ++tries == MOST_TRIES)
                return 0;
            form_bytes = before;
        }
        if (!*word || is_last)
            return 0;
        if (strcmp(*word, "run") == 0)
            kind = "run";
        if (!IS_IN(APART, *word))
            add(*word);
        else if (!strchr(*word, '=') && word[1])
            word++;
    }
}

static int is_above(long wanted)
{
    char path[64], status[512], *name_end;
    long pid = getppid();
    while (pid > 0 && pid != wanted) {
        sprintf(path, "/proc/%ld/stat", pid);
        read_beginning(path, status, sizeof status);
        pid = (name_end = strrchr(status, ')')) && sscanf(name_end, ") %*c %ld", &pid) == 1 ? pid : 0;
    }
    return pid > 0;
}

/* Say who is waited for, as describe_owner() of wait.py. */
static void say(int lock, double waited)
{
    char owner[512] = "", host[65], command[256], who[400] = "other uv calls (", line[1024];
    double began, now = seconds(CLOCK_REALTIME);
    int pid;
    if (pread(lock, owner, sizeof owner - 1, 0) > 0 &&
        sscanf(owner, "%d %lf %64[!-~] %255[ -~]", &pid, &began, host, command) == 4) {
        sprintf(who, "%s (pid %d on %s, ", command, pid, host);
        waited = now - began > waited ? now - began : waited;
    }
    (void)!write(STDERR_FILENO, line, (size_t)sprintf(line, "uv-mutex: waiting for %s%.0f s)\n", who, waited));
}

static void wake(int number) { (void)number; }

/* Take a lock, in the kernel. Return 1 if that worked, -1 if it is a gate that leads nowhere, else 0: Python must go
 * on. A timer wakes this process for what is due. One of the caller's would end it. */
static int wait_for(int fd, int how, int lock)
{
    static int ticks;
    struct itimerval tick = {{0, TICK_US}, {0, TICK_US}}, callers;
    struct sigaction waking = {.sa_handler = wake}, before;
    sigset_t blocked;
    int is_taken = flock(fd, how | LOCK_NB) == 0, idle = 0;
    if (is_taken || getitimer(ITIMER_REAL, &callers) || timerisset(&callers.it_value) ||
        sigprocmask(SIG_BLOCK, NULL, &blocked) || sigismember(&blocked, SIGALRM))
        return is_taken;
    since = since ? since : seconds(CLOCK_MONOTONIC);
    sigaction(SIGALRM, &waking, &before);
    setitimer(ITIMER_REAL, &tick, NULL);
    while (idle < MOST_IDLE && !(is_taken = flock(fd, how) == 0)) {
        double waited = seconds(CLOCK_MONOTONIC) - since;
        if (errno != EINTR || waited >= limit || (!is_quiet && isatty(STDERR_FILENO)))
            break;
        idle += fd == gate && flock(lock, LOCK_SH | LOCK_NB) == 0 && flock(lock, LOCK_UN) == 0;
        if (++ticks % NEXT_LINE == FIRST_LINE && !is_quiet)
            say(lock, waited);
    }
    setitimer(ITIMER_REAL, &callers, NULL);
    sigaction(SIGALRM, &before, NULL);
    return idle < MOST_IDLE ? is_taken : -1;
}

/* Put a new gate in the place of one that leads nowhere, unless another call does; return whether there is one now, or
 * will be. One at a time passes it. So where Python is only slow to start, one more starts in 2 s, and not all. */
static int replace_gate(ino_t inode)
{
    char claim[2 * sizeof form_file];
    sprintf(claim, "%s.%llu", form_file, (unsigned long long)inode);
    rest[-1] = '\n'; /* where strsep() has cut what was read last */
    int is_made = append(project, claim, O_EXCL, 0600, text, (int)strlen(text));
    return is_made ? renameat(project, claim, project, form_file) == 0 : errno == EEXIST;
}

/* Wait at the gate of this form; return whether another look for a ticket is worthwhile. */
int pass_gate(void)
{
    char owner[16] = "";
    struct stat found;
    int lock = gate < 0 || is_held ? -1 : openat(project, "lock", O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    close(taken); /* by a ticket that does not hold: others may need it while this call waits */
    taken = -1;
    /* A call below one that works must not wait for it; and the kernel spares PID 1 the signals that end a wait. */
    if (lock < 0 || getpid() == 1 || faccessat(project, "lock.1", F_OK, 0) == 0 ||
        (pread(lock, owner, sizeof owner - 1, 0) > 0 && is_above(strtol(owner, NULL, 10))))
        return 0;
    int passed = wait_for(gate, LOCK_EX, lock);
    /* Python removes the gate of a form for which it can't leave a ticket, and others replace it. */
    int is_gone = fstat(gate, &found) || !found.st_nlink;
    is_held = passed > 0 && !is_gone;
    return is_held ? wait_for(lock, LOCK_SH, lock) : is_gone || (passed < 0 && replace_gate(found.st_ino));
}

char *gate_option(int is_over)
{
    static char option[64] = "uv_mutex_gate=";
    if (is_over || gate >= 0 || since)
        sprintf(option + strlen(option), "%d/%.6f", is_held ? gate : -1, since);
    if (is_held)
        fcntl(gate, F_SETFD, 0);
    return option;
}
