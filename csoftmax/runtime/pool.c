/* The threads of this process. Plain C, no Python: what it runs knows nothing of it, and it knows nothing of arrays.
 *
 * A call publishes a task: a function, its data and a number of chunks. The caller takes chunks from the front;
 * workers that are free join the task and take chunks from the back. When none is left the caller takes the task off
 * the list, so that nobody can join any more, and waits for those who have joined: they are in their last chunk.
 * A worker that has not been scheduled has not joined, and nobody waits for it.
 *
 * Where the ideas come from. None of the code does.
 *   pthreadpool   The caller is one of the threads, and neighbouring chunks stay with one thread: there each thread
 *                 has a range and takes others' from its end. Here one range is taken from both ends.
 *   Eigen         An event counter tells a thread that is about to sleep of work that has come meanwhile, so that who
 *                 publishes takes no lock of the sleepers'.
 *   oneTBB        A worker has no team: it joins whichever task has a place left, and leaves it again. A caller never
 *                 waits for one that has not joined.
 *   Rayon         Nobody is woken while enough idle workers are awake; who has been woken wakes the next.
 *   BLIS          How many threads a call gets comes from its size, not from how many there are.
 *   numexpr, blosc2   A forked child starts with no workers and makes its own; small calls go alone.
 *   TCP           When workers have cost more time than they saved, calls go alone for a pause that grows each time;
 *                 after it they try again. GNU make, which asks the system how many threads run before it starts one
 *                 more, has shown how a pause can end sooner: as soon as the system has been seen at rest long enough.
 * What a call would have taken alone is known from its own fastest chunk, whoever else wants the CPUs meanwhile.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "pool.h"

#include <stdint.h>
#include <string.h>

#include "float_mode.h"

enum {
    MOST_WORKERS = 511,
    WAKE_TOGETHER = 2,           /* sleepers that one thread wakes; each of them wakes as many in its turn */
    STACK_BYTES = 1 << 20,       /* of a worker */
    LEAST_AWAKE = 2500,          /* ns of one thread's work that another thread is worth if it is awake ... */
    LEAST_ASLEEP = 10000,        /* ... and if it must be woken first */
    LEAST_SHARED = 2000000,      /* ns of work that must be left for a worker on the caller's CPU: systems move one of them */
    LEAST_COLD = 20000,          /* ns of work that must be left for a worker that was just woken, with cold caches */
    WORKER_SPIN = 10000,         /* ns that a worker looks out for work before it sleeps, when no call is under way ... */
    LONGEST_SPIN = 50000,        /* ... or from its own last chunk on */
    CALLER_SPIN = 20000,         /* ns that a caller looks out for the last chunks of others before it sleeps */
    VAIN_WAKE = 10000,           /* ns that it costs to wake a worker for a call in which none joins */
    WAKE_FORGOTTEN = 2000000,    /* ns after which a wake that has brought nobody is tried again */
    FIRST_LATENCY = 20000,       /* ns from a call to a worker that it has woken, before any has been measured */
    LONGEST_LATENCY = 200000,    /* ns; what took longer was another thread's turn */
    FIRST_CREDIT = 100000,       /* ns that workers may cost before they have saved any */
    CREDIT = 1000000,            /* ns that they have saved are remembered up to this */
};
#define FIRST_PAUSE INT64_C(20000000)   /* ns that calls go alone after a loss, ... */
#define LONGEST_PAUSE INT64_C(1000000000)
#define FORGOTTEN INT64_C(5000000000)   /* ... if there was none for so long; else four times the last pause */
#define LOOK_EVERY INT64_C(500000)      /* ns of a pause between two looks, of 6 us, at how many threads run */
#define LOOK_PAUSE INT64_C(40000000)    /* ns of a pause for each of which a look must have seen the system at rest */
#define TOLERANCE 1.125     /* times as long as the fastest chunk others may take without being taken for slow */
#define BACK (UINT64_C(1) << 32)
#define WAITED_FOR UINT32_C(0x80000000)

/* --------------------------------------------------------------------------------------- what systems call it */

#if defined(CSM_POOL_ATOMICS)
#include CSM_POOL_ATOMICS               /* of a test's own, for a tool that does not know the compiler's */
#elif defined(_MSC_VER)
#include <intrin.h>
#define LOAD(p) (*(p))                  /* x86: aligned loads acquire; arm64: /volatile:ms makes them */
#define ADD32(p, n) ((uint32_t)_InterlockedExchangeAdd((volatile long *)(p), (long)(n)))
#define ADD64(p, n) ((uint64_t)_InterlockedExchangeAdd64((volatile __int64 *)(p), (__int64)(n)))
#define OR32(p, n) ((uint32_t)_InterlockedOr((volatile long *)(p), (long)(n)))
#define STORE64(p, n) ((void)_InterlockedExchange64((volatile __int64 *)(p), (__int64)(n)))
#else
#define LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define ADD32(p, n) __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST)
#define ADD64(p, n) __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST)
#define OR32(p, n) __atomic_fetch_or(p, n, __ATOMIC_SEQ_CST)
#define STORE64(p, n) __atomic_store_n(p, n, __ATOMIC_SEQ_CST)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
static void breathe(void) { _mm_pause(); }
#elif defined(__aarch64__)
static void breathe(void) { __asm__ volatile("isb" : : : "memory"); }
#else
static void breathe(void) {}
#endif

static void worker(void);

#if defined(_WIN32)
#include <windows.h>
#if defined(_MSC_VER)
#pragma comment(lib, "synchronization")
#endif
typedef SRWLOCK lock_t;
#define LOCK_INIT SRWLOCK_INIT
static void lock(lock_t *l) { AcquireSRWLockExclusive(l); }
static void unlock(lock_t *l) { ReleaseSRWLockExclusive(l); }

static int has_room(int threads) {      /* unknown */
    (void)threads;
    return 0;
}
static int current_cpu(void) { return -1; }     /* unknown */

static void sleep_while(volatile uint32_t *word, uint32_t value) { WaitOnAddress(word, &value, sizeof value, INFINITE); }
static void wake(volatile uint32_t *word, int count) {
    while (count-- > 0) WakeByAddressSingle((void *)word);
}

static int64_t now(void) {
    LARGE_INTEGER frequency, ticks;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&ticks);
    return (int64_t)((double)ticks.QuadPart * 1e9 / (double)frequency.QuadPart);
}

static DWORD WINAPI thread_main(LPVOID unused) {
    (void)unused;
    worker();
    return 0;
}

static int start_thread(void) {
    HANDLE thread = CreateThread(NULL, STACK_BYTES, thread_main, NULL, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread == NULL) return 0;
    CloseHandle(thread);
    return 1;
}
#else
#include <pthread.h>
#include <signal.h>
#include <time.h>
typedef pthread_mutex_t lock_t;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
static void lock(lock_t *l) { pthread_mutex_lock(l); }
static void unlock(lock_t *l) { pthread_mutex_unlock(l); }

#if defined(__linux__) && !defined(CSM_POOL_ATOMICS)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
static void sleep_while(volatile uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void wake(volatile uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}
static void lock_bed(void) {}
static void unlock_bed(void) {}
static void make_bed(void) {}

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
static int current_cpu(void) { return sched_getcpu(); }

/* Whether the CPUs of this process have room for so many threads more, beside all that run at this moment. */
static int has_room(int threads) {
    char text[128];                     /* three averages of the load, then "running/all" */
    cpu_set_t cpus;
    const char *running = text;
    int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (size <= 0 || sched_getaffinity(0, sizeof cpus, &cpus)) return 0;
    text[size] = 0;
    for (int field = 0; field < 3 && running != NULL; field++) running = strchr(running + (field > 0), ' ');
    return running != NULL && strtol(running, NULL, 10) + threads <= CPU_COUNT(&cpus);
}
#else
static int has_room(int threads) {      /* unknown */
    (void)threads;
    return 0;
}
static int current_cpu(void) { return -1; }     /* unknown */

/* One bed for all who sleep: whoever is woken looks at its own word. */
static lock_t bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t alarm_clock = PTHREAD_COND_INITIALIZER;
static void sleep_while(volatile uint32_t *word, uint32_t value) {
    lock(&bed);
    while (LOAD(word) == value) pthread_cond_wait(&alarm_clock, &bed);
    unlock(&bed);
}
static void wake(volatile uint32_t *word, int count) {
    (void)word, (void)count;
    lock(&bed);
    pthread_cond_broadcast(&alarm_clock);
    unlock(&bed);
}
static void lock_bed(void) { lock(&bed); }
static void unlock_bed(void) { unlock(&bed); }
static void make_bed(void) {    /* in a child, where those who sleep in it are not */
    static const pthread_cond_t fresh = PTHREAD_COND_INITIALIZER;
    alarm_clock = fresh;
}
#endif

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *thread_main(void *unused) {
    worker();
    return unused;
}

static int start_thread(void) {
    /* Signals are for the threads of Python. */
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    int failed;
    if (pthread_attr_init(&attributes)) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, thread_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}
#endif

/* --------------------------------------------------------------------------------------------------- the pool */

typedef struct task {
    csm_chunk_fn run;
    void *work;
    ptrdiff_t chunks;
    int cpu;                    /* that of the caller, or -1 */
    volatile uint64_t taken;    /* from the front, and BACK times those from the back; goes on when none is left */
    volatile uint32_t working;  /* workers that have joined and not left; WAITED_FOR: the caller sleeps until it is 0 */
    volatile int64_t fastest;   /* ns of the chunk that took least, but for the last one, which may be smaller; or 0 */
    int places, joined, to_wake;    /* workers it has room for, that have ever joined, still to be woken: under `guard` */
    int64_t in_vain;            /* ns that its wakes cost if no worker joins */
    struct task *next;
} task;

static struct {
    lock_t guard;               /* of what follows */
    task *tasks;                /* that may be joined, the oldest first */
    int workers;
    int waking;                 /* workers that have been woken and are not here yet ... */
    int64_t last_wake;          /* ... and when the last of them was */
    int64_t refused_until;      /* the system would make no thread: it is asked again from then on */
    int64_t pause, last_loss;   /* how long calls go alone after the last time that workers had cost too much, and when */
    int64_t rests;              /* looks in a row that have seen the system at rest since */
    /* atomic, of nobody: */
    volatile uint32_t event;    /* counts tasks that were published */
    volatile uint32_t sleeping; /* workers that sleep or are about to ... */
    volatile uint32_t spinning; /* ... or look out for a task */
    volatile uint32_t callers;  /* calls under way */
    volatile int64_t caller_cpu;    /* where the last of them began, or -1 */
    volatile int64_t published; /* when the last task was */
    volatile int64_t latency;   /* ns from there to a worker that was woken for it, a running mean */
    volatile int64_t alone_until;   /* when calls may use workers again */
    volatile int64_t next_look; /* in a pause: when to look again whether the system is at rest */
    volatile int64_t last_call; /* when a call last asked how many threads are useful */
    volatile int64_t credit;    /* ns that workers have saved and not cost again, up to CREDIT */
} pool = {.guard = LOCK_INIT, .last_loss = -FORGOTTEN, .credit = FIRST_CREDIT, .latency = FIRST_LATENCY, .caller_cpu = -1};

#if !defined(_WIN32)
/* No other thread holds a lock while this one forks, and no other is in the child. */
static void before_fork(void) {
    lock(&pool.guard);
    lock_bed();
}
static void after_fork(void) {
    unlock_bed();
    unlock(&pool.guard);
}
static void in_child(void) {
    pool.tasks = NULL;
    pool.workers = pool.waking = 0;
    pool.sleeping = pool.spinning = pool.callers = 0;
    pool.refused_until = pool.alone_until = 0;
    pool.last_loss = -FORGOTTEN;
    pool.credit = FIRST_CREDIT;
    pool.latency = FIRST_LATENCY;
    make_bed();
    after_fork();
}
void csm_pool_watch_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }
#else
void csm_pool_watch_forks(void) {}
#endif

/* ------------------------------------------------------------------------------------------------ one task */

/* Whether chunks are left; for a worker that has just been woken, or that the system has put on the CPU of the caller,
 * where it keeps it from its own chunks until one of them is moved, whether enough are. */
static int is_worth_joining(const task *t, int woken, int cpu) {
    uint64_t taken = LOAD(&t->taken);
    ptrdiff_t left = t->chunks - (ptrdiff_t)(taken % BACK + taken / BACK);
    int64_t fastest = LOAD(&t->fastest);
    if (cpu >= 0 && t->cpu == cpu) return fastest > 0 && left > LEAST_SHARED / fastest;
    return left > 0 && (!woken || fastest == 0 || left > LEAST_COLD / fastest);
}

static int take(task *t, uint64_t end, ptrdiff_t *chunk) {
    uint64_t taken = ADD64(&t->taken, end);
    ptrdiff_t front = (ptrdiff_t)(taken % BACK), back = (ptrdiff_t)(taken / BACK);
    *chunk = end == BACK ? t->chunks - 1 - back : front;
    return front + back < t->chunks;
}

static void note_chunk(task *t, int64_t ns) {
    int64_t fastest = LOAD(&t->fastest);
    /* Where two threads do this at once, one of two short times gets lost. */
    if (fastest == 0 || ns < fastest) STORE64(&t->fastest, ns);
}

/* Works on chunks from one end until none is left. */
static void work_on(task *t, uint64_t end, int slot) {
    int64_t before = now(), after;
    ptrdiff_t chunk;
    while (take(t, end, &chunk)) {
        t->run(t->work, chunk, slot);
        after = now();
        if (chunk < t->chunks - 1) note_chunk(t, after - before);
        before = after;
    }
}

/* Sleepers to be woken by this thread. Under `guard`. */
static int take_wakes(task *t, int64_t time) {
    int count = t->to_wake < WAKE_TOGETHER ? t->to_wake : WAKE_TOGETHER, sleeping = (int)LOAD(&pool.sleeping);
    t->to_wake -= count;
    if (count > sleeping) count = sleeping;
    if (count > 0) pool.last_wake = time;
    pool.waking += count;
    return count;
}

/* --------------------------------------------------------------------------------------------------- workers */

/* A task that has a place and chunks left, with the slot there, or NULL. */
static task *join(int woken, int *slot) {
    task *t;
    int64_t time = now();
    int wakes = 0, cpu = current_cpu();
    lock(&pool.guard);
    if (woken && pool.waking > 0) pool.waking--;
    for (t = pool.tasks; t != NULL && !(t->joined < t->places && is_worth_joining(t, woken, cpu)); t = t->next) continue;
    if (t != NULL) {
        *slot = ++t->joined;
        ADD32(&t->working, 1);
        wakes = take_wakes(t, time);
    }
    unlock(&pool.guard);
    if (wakes > 0) wake(&pool.event, wakes);
    return t;
}

/* After this the task may be gone. */
static void leave(task *t) {
    if (ADD32(&t->working, (uint32_t)-1) == (WAITED_FOR | 1)) wake(&t->working, 1);
}

/* Looks out for another task for a while. */
static int sees_task(uint32_t seen) {
    int64_t begun = now(), time = begun, end = begun + WORKER_SPIN;
    do {
        for (int i = 0; i < 8; i++) {
            if (LOAD(&pool.event) != seen) return 1;
            breathe();
        }
        time = now();
        if (LOAD(&pool.callers) > 0) end = time + WORKER_SPIN;
    } while (time < end && time < begun + LONGEST_SPIN);
    return 0;
}

static void note_latency(int64_t ns) {
    int64_t mean = LOAD(&pool.latency);
    if (ns < LONGEST_LATENCY) STORE64(&pool.latency, mean + (ns - mean) / 8);
}

/* Looks out for a task for a while, if it is not on the CPU of the last caller and the machine is not busy with others;
 * sleeps, and returns whether it has. Whoever was woken too late for one call is awake for the next. */
static int wait_for_task(uint32_t seen) {
    int seen_task = 0, slept, cpu = current_cpu();
    if (now() >= LOAD(&pool.alone_until) && (cpu < 0 || cpu != LOAD(&pool.caller_cpu))) {
        ADD32(&pool.spinning, 1);
        seen_task = sees_task(seen);
        ADD32(&pool.spinning, (uint32_t)-1);
    }
    if (seen_task) return 0;
    ADD32(&pool.sleeping, 1);
    slept = LOAD(&pool.event) == seen;
    if (slept) sleep_while(&pool.event, seen);
    ADD32(&pool.sleeping, (uint32_t)-1);
    if (slept) note_latency(now() - LOAD(&pool.published));
    return slept;
}

static void worker(void) {
    int woken = 0;
    csm_enter_mode();
    for (;;) {
        int slot = 0;
        uint32_t seen = LOAD(&pool.event);
        task *t = join(woken, &slot);
        woken = 0;
        if (t != NULL) {
            work_on(t, BACK, slot);
            leave(t);
        } else {
            woken = wait_for_task(seen);
        }
    }
}

/* Makes workers until there are `wanted`, or the system refuses. */
static void hire(int wanted) {
    int started = 1;
    lock(&pool.guard);
    while (pool.workers < wanted && started && (now() >= pool.refused_until)) {
        pool.workers++;
        unlock(&pool.guard);
        started = start_thread();
        lock(&pool.guard);
        if (!started) {
            pool.workers--;
            pool.refused_until = now() + LONGEST_PAUSE;
        }
    }
    unlock(&pool.guard);
}

/* --------------------------------------------------------------------------------------------------- callers */

static void publish(task *t, int64_t time) {
    task **end;
    int wakes;
    lock(&pool.guard);
    for (end = &pool.tasks; *end != NULL; end = &(*end)->next) continue;
    *end = t;
    if (time - pool.last_wake > WAKE_FORGOTTEN) pool.waking = 0;
    t->to_wake = t->places - (int)LOAD(&pool.spinning) - pool.waking;
    if (t->to_wake < 0) t->to_wake = 0;
    wakes = take_wakes(t, time);
    t->in_vain = VAIN_WAKE * wakes;
    unlock(&pool.guard);
    STORE64(&pool.published, time);
    STORE64(&pool.caller_cpu, t->cpu);
    ADD32(&pool.event, 1);
    if (wakes > 0) wake(&pool.event, wakes);
}

static void withdraw(const task *t) {
    task **link;
    lock(&pool.guard);
    for (link = &pool.tasks; *link != t; link = &(*link)->next) continue;
    *link = t->next;
    unlock(&pool.guard);
}

static void wait_for_workers(task *t) {
    int64_t end = now() + CALLER_SPIN;
    uint32_t working;
    while (LOAD(&t->working) != 0 && now() < end) breathe();
    if (LOAD(&t->working) == 0 || OR32(&t->working, WAITED_FOR) == 0) return;
    while ((working = LOAD(&t->working)) != WAITED_FOR) sleep_while(&t->working, working);
}

/* Keeps account of what workers have saved and cost. When they have cost more, the next calls go alone for a while. */
static void settle(int64_t saved) {
    int64_t time, credit = LOAD(&pool.credit) + saved;
    if (credit < 0) {
        time = now();
        lock(&pool.guard);
        if (time >= LOAD(&pool.alone_until)) {
            pool.pause = time - pool.last_loss > FORGOTTEN ? FIRST_PAUSE : pool.pause * 4;
            if (pool.pause > LONGEST_PAUSE) pool.pause = LONGEST_PAUSE;
            pool.last_loss = time;
            pool.rests = 0;
            STORE64(&pool.next_look, time + LOOK_EVERY);
            STORE64(&pool.alone_until, time + pool.pause);
        }
        unlock(&pool.guard);
        credit = FIRST_CREDIT;
    }
    STORE64(&pool.credit, credit < CREDIT ? credit : CREDIT);
}

void csm_pool_run(csm_chunk_fn run, void *work, ptrdiff_t chunks, int threads) {
    task t;
    int64_t begun;
    double alone;
    memset(&t, 0, sizeof t);
    t.run = run;
    t.work = work;
    t.chunks = chunks;
    t.cpu = current_cpu();
    t.places = (threads < chunks ? threads : (int)chunks) - 1;
    if (t.places > MOST_WORKERS) t.places = MOST_WORKERS;
    if (t.places > 0) hire(t.places);
    if (t.places <= 0 || csm_pool_workers() == 0) {
        for (ptrdiff_t chunk = 0; chunk < chunks; chunk++) run(work, chunk, 0);
        return;
    }
    begun = now();
    ADD32(&pool.callers, 1);
    publish(&t, begun);
    work_on(&t, 1, 0);
    withdraw(&t);
    if (LOAD(&t.working) != 0) wait_for_workers(&t);
    ADD32(&pool.callers, (uint32_t)-1);
    alone = (double)LOAD(&t.fastest) * (double)chunks * TOLERANCE;
    settle(t.joined > 0 ? (int64_t)alone - (now() - begun) : -t.in_vain);
}

/* In a pause: looks at the system now and then, and ends the pause when it has been at rest. The longer the pause, the
 * more often in a row it must have been. */
static int is_at_rest(int64_t time, int threads) {
    int room, rested;
    if (time < LOAD(&pool.next_look)) return 0;
    STORE64(&pool.next_look, time + LOOK_EVERY);
    room = has_room(threads - 1);
    lock(&pool.guard);
    pool.rests = room ? pool.rests + 1 : 0;
    rested = room && pool.rests >= pool.pause / LOOK_PAUSE;
    if (rested) STORE64(&pool.alone_until, 0);
    unlock(&pool.guard);
    return rested;
}

int csm_pool_useful(int threads, double ns) {
    int64_t time, before;
    int awake;
    double most;
    if (threads <= 1 || ns < 2 * LEAST_AWAKE) return 1;
    time = now();
    if (time < LOAD(&pool.alone_until) && !is_at_rest(time, threads)) return 1;
    /* Who calls again at once finds workers awake from the second call on, if it wakes them for the first. */
    before = LOAD(&pool.last_call);
    STORE64(&pool.last_call, time);
    awake = LOAD(&pool.spinning) > 0 || (double)(time - before) < 2 * (ns + WORKER_SPIN);
    if (!awake && ns < (double)LOAD(&pool.latency) + 2 * LEAST_ASLEEP) return 1;
    most = ns / (awake ? LEAST_AWAKE : LEAST_ASLEEP);
    return most >= threads ? threads : most >= 1 ? (int)most : 1;
}

int csm_pool_workers(void) {
    int workers;
    lock(&pool.guard);
    workers = pool.workers;
    unlock(&pool.guard);
    return workers;
}
