/* What the files of the launcher share. */

#ifndef UV_MUTEX_LAUNCHER_H
#define UV_MUTEX_LAUNCHER_H

#include <stddef.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* The exit statuses of src/uv_mutex/errors.py. INCOMPLETE is that of hooks/uv where the library is damaged. */
enum { INCOMPLETE = 1, CANNOT_EXEC = 126, NO_UV = 127 };

/* The path of the real uv, which is valid for as long as the process runs. Ends the process if there is none. */
const char *find_real_uv(void);

/* Whether a program may look for the real uv and find this launcher: as may_start_shim() of executable.py. */
int may_start_launcher(const char *path);

/* Whether a ticket says that the environment of this call is fresh. If so, this process has left its record, and must
 * become the real uv now, which releases the locks. */
int is_fresh(const char *uv, char *const *argv);

/* Write the digest of some bytes: 32 hexadecimal digits, and a zero byte. */
void digest(const char *bytes, size_t count, char hexadecimal[33]);

/* Cut the last slash, and what follows it, off an absolute path. */
void cut_last_part(char *path);

/* Read the beginning of a file; return how many bytes there were, or -1 with errno set. A named pipe reads as empty. */
long read_beginning(const char *path, char *into, size_t limit);

/* Print one line that begins `uv-mutex:` and consists of these strings, the last one NULL; then exit. */
__attribute__((noreturn, sentinel)) void fail(int status, ...);

#endif
