/* What the files of the launcher share. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Read the beginning of a file, end it by a zero byte, and return its length, or -1 with errno set. A pipe is empty. */
long read_beginning(const char *path, char *into, size_t size);
/* Cut the last slash, and what follows it, off an absolute path. */
void cut_last_part(char *path);

/* Whether a ticket says that the environment of this call is fresh. If so, this process has left its record, and must
 * become the real uv now, which releases the locks. If not, pass_gate() waits until another look is worthwhile. */
int is_fresh(const char *uv, char *const *argv);
int pass_gate(void);
/* The option that tells Python whether this call has waited, here or (`is_over`) in Python. */
char *gate_option(int is_over);

/* Write the digest of some bytes: 32 hexadecimal digits, and a zero byte. */
void digest(const char *bytes, size_t count, char hexadecimal[33]);
