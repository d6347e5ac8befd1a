/* A disk that takes its time: loaded before libc, it makes every sync last at least as many microseconds
   as the file named by SLOW_SYNC says. Without that file nothing is slower. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void wait_as_told(long began_us) {
    const char *path = getenv("SLOW_SYNC");
    FILE *file = path ? fopen(path, "r") : NULL;
    long us = 0;
    if (file == NULL) return;
    if (fscanf(file, "%ld", &us) == 1 && (us -= now_us() - began_us) > 0) {
        struct timespec time = {us / 1000000, us % 1000000 * 1000};
        nanosleep(&time, NULL);
    }
    fclose(file);
}

int fsync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    long began_us = now_us();
    int done = real(file);
    wait_as_told(began_us);
    return done;
}

int fdatasync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    long began_us = now_us();
    int done = real(file);
    wait_as_told(began_us);
    return done;
}
