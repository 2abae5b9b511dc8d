/* The pool's atomic operations under one mutex: helgrind knows mutexes, and takes a compiler's atomics for races. */
#include <pthread.h>

extern pthread_mutex_t pool_atomics;

#define LOCKED(value)                      \
    __extension__({                        \
        pthread_mutex_lock(&pool_atomics); \
        __typeof__(value) value_ = value;  \
        pthread_mutex_unlock(&pool_atomics); \
        value_;                            \
    })
#define LOAD(p) LOCKED(*(p))
#define ADD32(p, n) LOCKED((*(p) += (uint32_t)(n)) - (uint32_t)(n))
#define ADD64(p, n) LOCKED((*(p) += (n)) - (n))
#define OR32(p, n) LOCKED(locked_or(p, n))
#define STORE64(p, n) ((void)LOCKED(*(p) = (n)))

static inline uint32_t locked_or(volatile uint32_t *p, uint32_t n) {
    uint32_t before = *p;
    *p |= n;
    return before;
}
