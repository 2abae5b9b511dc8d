/* Preloaded by test_allocation: makes one chosen malloc that csoftmax's own modules ask for fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

static int countdown = -1; /* calls still to succeed; below 0 nothing fails */
static int failed;

void fail_after(int calls) {
    countdown = calls;
    failed = 0;
}

int has_failed(void) { return failed; }

void *malloc(size_t size) {
    static void *(*real)(size_t);
    Dl_info caller;
    if (!real) real = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    if (countdown >= 0 && dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "/csoftmax/") &&
        countdown-- == 0) {
        failed = 1;
        return NULL;
    }
    return real(size);
}
