/* The threads of this process: a call's chunks are shared out among its own thread and the workers of one pool. */
#ifndef CSOFTMAX_POOL_H
#define CSOFTMAX_POOL_H

#include <stddef.h>

/* Works on chunk number `chunk` of `work`. `slot` is from 0 (the caller) to threads - 1, and no two threads that work
 * on the same call at the same time have the same: scratch memory goes by it. It must not call the pool, nor Python. */
typedef void (*csm_chunk_fn)(void *work, ptrdiff_t chunk, int slot);

/* Once, before anything else: makes the pool's state right in forked children. */
void csm_pool_watch_forks(void);

/* Calls run(work, chunk, slot) once for each chunk from 0 to chunks - 1, by the caller and by at most threads - 1
 * workers; returns when all are done. Without any worker the caller does all of it. */
void csm_pool_run(csm_chunk_fn run, void *work, ptrdiff_t chunks, int threads);

/* How many of `threads` are worth their waking for a call that takes one thread about `ns` nanoseconds: 1 where the
 * call is short, and for a while after workers have made calls slower, since the machine is then busy with others. */
int csm_pool_useful(int threads, double ns);

/* How many workers this process has. */
int csm_pool_workers(void);

#endif
