/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In every unit test. Under ThreadSanitizer: packaged libraries are not instrumented, so their
 * atomics are invisible and what they publish through them looks like a race: RocksDB and its
 * compressors, OpenSSL's tables of algorithms. Does nothing in other builds.
 *
 * Nor does it see a descriptor end that libuv closes by syscall(2), so it took the next user of the
 * number for a racing user of the same one.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define TSAN 1
#endif

#if defined(TSAN) && defined(__x86_64__)
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The system calls of whoever is linked to us. */
__attribute__((visibility("default"), no_sanitize("thread"))) long syscall(long nr, ...)
{
    long a[6], ret;
    va_list ap;

    va_start(ap, nr);
    for (unsigned i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (nr == SYS_close)
        return close((int)a[0]);
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (ret >= 0 || ret < -4095)
        return ret;
    errno = (int)-ret;
    return -1;
}
#endif

#ifdef TSAN
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
    return "race:librocksdb\nrace:libstdc++\nrace:libzstd\nrace:liblz4\nrace:libcrypto\n";
}
#else
typedef int tsan_is_empty;
#endif
