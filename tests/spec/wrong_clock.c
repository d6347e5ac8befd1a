/* A wall clock that nobody sets: loaded before libc, it is as many seconds ahead as CLOCK_AHEAD says. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) =
        (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *ahead = getenv("CLOCK_AHEAD");
    int done = real(clock, time);
    if (done == 0 && clock == CLOCK_REALTIME && ahead) time->tv_sec += atol(ahead);
    return done;
}
