/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In every unit test. Under ThreadSanitizer: packaged libraries are not instrumented, so their
 * atomics are invisible and what they publish through them looks like a race: RocksDB and its
 * compressors, OpenSSL's tables of algorithms. Does nothing in other builds.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define TSAN 1
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
