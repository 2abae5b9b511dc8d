/* The pool on its own, for ThreadSanitizer and helgrind: callers at once, calls of every size, forks, settings.
 *
 * pool_stress CALLERS CALLS EACH: each of CALLERS threads makes CALLS calls whose chunks add up numbers, and compares
 * the sum. Each EACHth call of the first one is made in a forked child; 0: none. Prints how many calls were right. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/pool.h"

pthread_mutex_t pool_atomics = PTHREAD_MUTEX_INITIALIZER;      /* of locked_atomics.h */
static void lock_atomics(void) { pthread_mutex_lock(&pool_atomics); }
static void unlock_atomics(void) { pthread_mutex_unlock(&pool_atomics); }

enum { MOST_THREADS = 8, MOST_CHUNKS = 300 };

typedef struct {
    uint64_t sums[MOST_THREADS];        /* a slot each: two threads in one slot are a data race */
    unsigned char done[MOST_CHUNKS];    /* not atomic: a chunk that is given out twice is a data race */
    int rounds;
} call;

static int calls, callers, each;

static void add(void *work, ptrdiff_t chunk, int slot) {
    call *c = work;
    uint64_t value = (uint64_t)chunk + 1;
    c->done[chunk]++;
    for (int i = 0; i < c->rounds; i++) value = value * 6364136223846793005u + 1442695040888963407u;
    c->sums[slot] += value | 1;
    c->sums[slot] += (uint64_t)chunk - (value | 1);
}

/* One call; whether each chunk was worked on once. */
static int right(unsigned seed) {
    ptrdiff_t chunks = 1 + seed % MOST_CHUNKS, i;
    uint64_t sum = 0;
    call *c = calloc(1, sizeof *c);
    int threads = 2 + seed / 7 % (MOST_THREADS - 1), fine = 1;
    c->rounds = seed % 13 == 0 ? 20000 : (int)(seed % 200);
    csm_pool_run(add, c, chunks, threads);
    for (i = 0; i < MOST_THREADS; i++) sum += c->sums[i];
    for (i = 0; i < chunks; i++) fine &= c->done[i] == 1;
    fine &= sum == (uint64_t)(chunks * (chunks - 1) / 2);
    free(c);
    return fine && csm_pool_useful(threads, 1e6) >= 1;
}

static int child_is_right(unsigned seed) {
    int status;
    pid_t child = fork();
    if (child == 0) _exit(right(seed) && right(seed + 1) && csm_pool_workers() > 0 ? 0 : 1);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void *caller(void *number) {
    unsigned seed = (unsigned)(uintptr_t)number * 977u;
    intptr_t good = 0;
    for (int i = 0; i < calls; i++) {
        seed = seed * 1103515245u + 12345u;
        if (number == NULL && each && i % each == each - 1)
            good += child_is_right(seed >> 8);
        else
            good += right(seed >> 8);
    }
    return (void *)good;
}

int main(int argc, char **argv) {
    pthread_t threads[64];
    intptr_t good = 0;
    void *result;
    if (argc != 4 || (callers = atoi(argv[1])) < 1 || callers > 64 || (calls = atoi(argv[2])) < 1 ||
        (each = atoi(argv[3])) < 0)
        return 2;
    pthread_atfork(lock_atomics, unlock_atomics, unlock_atomics);
    csm_pool_watch_forks();
    for (int i = 0; i < callers; i++) pthread_create(&threads[i], NULL, caller, (void *)(uintptr_t)i);
    for (int i = 0; i < callers; i++) {
        pthread_join(threads[i], &result);
        good += (intptr_t)result;
    }
    printf("%ld\n", (long)good);
    return good != (intptr_t)callers * calls;
}
