/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoch_reader — read every file of a manifest once, as one epoch of a training job does.
 *
 * A manifest has one `hash  path` line per file: XXH3-64 in 16 hex digits, two spaces, a path below
 * the root. The files are shuffled by seed and read to their end by N threads, which take the next
 * file from one shared counter. What was read is compared with the hash. The sums go to stdout as
 * one JSON object, the first few failures to stderr. Exit: 0 all bytes right, 1 not, 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/units.h"

enum {
    EPOCH_HASH_DIGITS = 16,
    EPOCH_THREADS_MAX = 256,
    EPOCH_FAILURES_SHOWN = 10,
};

struct epoch_entry {
    uint64_t hash;    /* XXH3-64 of the whole file */
    const char *path; /* below the root; points into epoch.text */
};

/* Immutable after the threads start, but for the atomics. */
struct epoch {
    int root_fd;                 /* the directory that the paths are below */
    char *text;                  /* the manifest, cut at its line ends */
    struct epoch_entry *entries; /* in the order of reading */
    size_t n_entries;            /* how many */
    size_t block_bytes;          /* asked of one read(2) */
    atomic_size_t next;          /* the first entry that nobody took */
    atomic_uint_fast64_t bytes;  /* read by all threads */
    atomic_uint mismatches;      /* files whose hash differed */
    atomic_uint errors;          /* files that could not be read */
    atomic_uint shown;           /* failures written to stderr */
};

static void epoch_complain(struct epoch *e, const char *path, const char *what)
{
    if (atomic_fetch_add(&e->shown, 1) < EPOCH_FAILURES_SHOWN)
        (void)fprintf(stderr, "epoch_reader: %s: %s\n", path, what); /* stderr: no one to tell */
}

/* Returns 0, or -errno. */
static int epoch_hash_file(struct epoch *e, const char *path, void *block, XXH3_state_t *state,
                           uint64_t *ret_hash)
{
    uint64_t bytes = 0;
    ssize_t n;
    int fd = openat(e->root_fd, path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    (void)XXH3_64bits_reset(state); /* fails for a null state only */
    while ((n = read(fd, block, e->block_bytes)) > 0) {
        (void)XXH3_64bits_update(state, block, (size_t)n);
        bytes += (uint64_t)n;
    }
    n = n < 0 ? -errno : 0;
    (void)close(fd); /* only read from */
    atomic_fetch_add(&e->bytes, bytes);
    if (n == 0)
        *ret_hash = XXH3_64bits_digest(state);
    return (int)n;
}

static void *epoch_thread(void *arg)
{
    struct epoch *e = arg;
    void *block = aligned_alloc(4096, e->block_bytes);
    XXH3_state_t *state = XXH3_createState();
    size_t i;

    TARN_ASSERT(block && state);
    while ((i = atomic_fetch_add(&e->next, 1)) < e->n_entries) {
        const struct epoch_entry *entry = &e->entries[i];
        uint64_t hash = 0;
        int rc = epoch_hash_file(e, entry->path, block, state, &hash);

        if (rc < 0) {
            atomic_fetch_add(&e->errors, 1);
            epoch_complain(e, entry->path, strerrordesc_np(-rc));
        } else if (hash != entry->hash) {
            atomic_fetch_add(&e->mismatches, 1);
            epoch_complain(e, entry->path, "wrong bytes");
        }
    }
    (void)XXH3_freeState(state); /* cannot fail */
    free(block);
    return NULL;
}

/* Reads the whole file; NULL after a message. */
static char *epoch_read_text(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;

    if (!f) {
        (void)fprintf(stderr, "epoch_reader: %s: %s\n", path, strerrordesc_np(errno));
        return NULL;
    }
    n = getdelim(&text, &cap, '\0', f);
    (void)fclose(f); /* only read from */
    if (n <= 0) {
        (void)fprintf(stderr, "epoch_reader: %s: the manifest is empty\n", path);
        free(text);
        return NULL;
    }
    return text;
}

/* Cuts e->text into entries. Returns 0, or the number of the first line that is wrong. */
static size_t epoch_parse(struct epoch *e)
{
    size_t lines = 0;
    char *line = e->text;

    for (const char *p = e->text; (p = strchr(p, '\n')) != NULL; p++)
        lines++;
    e->entries = calloc(lines + 1, sizeof(*e->entries));
    TARN_ASSERT(e->entries);
    while (*line) {
        struct epoch_entry *entry = &e->entries[e->n_entries];
        char *end = strchr(line, '\n');
        char *rest;

        entry->hash = strtoull(line, &rest, 16);
        if (!end || rest != line + EPOCH_HASH_DIGITS || rest[0] != ' ' || rest[1] != ' ')
            return e->n_entries + 1;
        *end = '\0';
        entry->path = rest + 2;
        e->n_entries++;
        line = end + 1;
    }
    return e->n_entries ? 0 : 1;
}

static void epoch_shuffle(struct epoch *e, uint64_t seed)
{
    for (size_t i = e->n_entries - 1; i > 0; i--) {
        size_t j = tarn_hash_u64(seed + i) % (i + 1);
        struct epoch_entry swap = e->entries[i];

        e->entries[i] = e->entries[j];
        e->entries[j] = swap;
    }
}

static double epoch_now_s(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double epoch_run(struct epoch *e, size_t n_threads)
{
    pthread_t threads[EPOCH_THREADS_MAX];
    double start = epoch_now_s();

    TARN_ASSERT(n_threads > 0 && n_threads <= EPOCH_THREADS_MAX);
    for (size_t i = 0; i < n_threads; i++) {
        int rc = pthread_create(&threads[i], NULL, epoch_thread, e);

        TARN_ASSERT(rc == 0);
    }
    for (size_t i = 0; i < n_threads; i++)
        (void)pthread_join(threads[i], NULL); /* they are joinable and ours */
    return epoch_now_s() - start;
}

static int epoch_usage(void)
{
    (void)fputs("usage: epoch_reader [-t THREADS] [-s SEED] [-b BLOCK] ROOT MANIFEST\n"
                "Reads every file of MANIFEST (lines of `xxh3-64  path`) below ROOT and compares.\n"
                "  -t 1..256 (8)   -s shuffle (1; 0 keeps the order)   -b bytes per read (1MiB)\n",
                stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct epoch e = {.block_bytes = 1 << 20};
    uint64_t threads = 8, seed = 1, block = e.block_bytes;
    size_t bad;
    double seconds;
    int opt;

    while ((opt = getopt(argc, argv, "t:s:b:")) != -1) {
        int rc = opt == 't'   ? tarn_parse_u64(optarg, &threads)
                 : opt == 's' ? tarn_parse_u64(optarg, &seed)
                 : opt == 'b' ? tarn_parse_size(optarg, &block)
                              : -1;

        if (rc < 0)
            return epoch_usage();
    }
    if (argc - optind != 2 || threads < 1 || threads > EPOCH_THREADS_MAX || block < 4096 ||
        block % 4096 || block > (64 << 20))
        return epoch_usage();
    e.block_bytes = block;
    e.root_fd = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (e.root_fd < 0) {
        (void)fprintf(stderr, "epoch_reader: %s: %s\n", argv[optind], strerrordesc_np(errno));
        return 1;
    }
    e.text = epoch_read_text(argv[optind + 1]);
    if (!e.text)
        return 1;
    bad = epoch_parse(&e);
    if (bad) {
        (void)fprintf(stderr, "epoch_reader: %s: line %zu is not `hash  path`\n", argv[optind + 1],
                      bad);
        free(e.entries);
        free(e.text);
        return 1;
    }
    if (seed)
        epoch_shuffle(&e, seed);
    seconds = epoch_run(&e, threads);
    printf("{\"files\": %zu, \"bytes\": %" PRIu64 ", \"seconds\": %.6f, \"mismatches\": %u, "
           "\"errors\": %u}\n",
           e.n_entries, (uint64_t)e.bytes, seconds, e.mismatches, e.errors);
    (void)close(e.root_fd);
    free(e.entries);
    free(e.text);
    return e.mismatches || e.errors ? 1 : 0;
}
