/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For programs under ThreadSanitizer that use RocksDB: the packaged library and its compressors are
 * not instrumented, so its atomics are invisible and what it publishes through them looks like a
 * race. Add this file to the program's sources. Does nothing in other builds.
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
    return "race:librocksdb\nrace:libstdc++\nrace:libzstd\nrace:liblz4\n";
}
#else
typedef int tsan_rocksdb_is_empty;
#endif
