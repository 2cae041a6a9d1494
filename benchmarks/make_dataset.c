/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make_dataset — write a data set that is the same everywhere, and its manifest.
 *
 * Below ROOT: FILES small files in DIRS directories (d000/f000000.bin ...), sizes spread evenly
 * between the bounds, and SHARDS large ones (shards/shard-0.bin ...). Size and bytes of a file
 * follow from its number and the seed alone, so that two threads may share the work and two
 * machines agree. The manifest (`xxh3-64  path` lines, as epoch_reader reads) is renamed into place
 * after the last file: where it exists, the data set is whole.
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
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/units.h"

enum {
    DATASET_PATH_MAX = 64,
    DATASET_THREADS = 4,
    DATASET_BLOCK_BYTES = 1 << 20,
};

/* Immutable after the threads start, but for the atomics and hashes[i], which its taker writes. */
struct dataset {
    int root_fd;          /* the directory to fill */
    uint64_t files;       /* small files */
    uint64_t dirs;        /* directories that they are spread over */
    uint64_t min_bytes;   /* of a small file */
    uint64_t max_bytes;   /* of a small file */
    uint64_t shards;      /* large files */
    uint64_t shard_bytes; /* of each */
    uint64_t seed;        /* of sizes and bytes */
    uint64_t *hashes;     /* of file i */
    atomic_size_t next;   /* the first file that nobody took; shards come first */
    atomic_int error;     /* errno of a failure, else 0 */
};

static void dataset_path(const struct dataset *d, uint64_t i, char path[DATASET_PATH_MAX])
{
    if (i < d->shards)
        (void)snprintf(path, DATASET_PATH_MAX, "shards/shard-%" PRIu64 ".bin", i);
    else
        (void)snprintf(path, DATASET_PATH_MAX, "d%03" PRIu64 "/f%06" PRIu64 ".bin",
                       (i - d->shards) % d->dirs, i - d->shards);
}

static uint64_t dataset_size(const struct dataset *d, uint64_t i)
{
    if (i < d->shards)
        return d->shard_bytes;
    return d->min_bytes + tarn_hash_u64(d->seed ^ (i << 1)) % (d->max_bytes - d->min_bytes + 1);
}

static int dataset_write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);

        if (done < 0)
            return -errno;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

/* Returns 0, or -errno. */
static int dataset_make_file(struct dataset *d, uint64_t i, uint64_t *block, XXH3_state_t *state)
{
    char path[DATASET_PATH_MAX];
    uint64_t left = dataset_size(d, i);
    uint64_t word = tarn_hash_u64(d->seed + i) & ~0xffffffULL; /* room to count up in */
    int fd, rc = 0;

    dataset_path(d, i, path);
    fd = openat(d->root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    (void)XXH3_64bits_reset(state); /* fails for a null state only */
    while (left > 0 && rc == 0) {
        size_t n = left < DATASET_BLOCK_BYTES ? left : DATASET_BLOCK_BYTES;

        for (size_t w = 0; w < (n + 7) / 8; w++)
            block[w] = tarn_hash_u64(word++);
        (void)XXH3_64bits_update(state, block, n);
        rc = dataset_write_all(fd, (const char *)block, n);
        left -= n;
    }
    d->hashes[i] = XXH3_64bits_digest(state);
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

static void *dataset_thread(void *arg)
{
    struct dataset *d = arg;
    uint64_t *block = malloc(DATASET_BLOCK_BYTES);
    XXH3_state_t *state = XXH3_createState();
    size_t i;

    TARN_ASSERT(block && state);
    while ((i = atomic_fetch_add(&d->next, 1)) < d->files + d->shards && !d->error) {
        int rc = dataset_make_file(d, i, block, state);

        if (rc < 0)
            d->error = -rc;
    }
    (void)XXH3_freeState(state); /* cannot fail */
    free(block);
    return NULL;
}

/* Returns 0, or -errno. */
static int dataset_make_dirs(const struct dataset *d)
{
    char path[DATASET_PATH_MAX] = "shards";

    if (d->shards && mkdirat(d->root_fd, path, 0755) < 0 && errno != EEXIST)
        return -errno;
    for (uint64_t i = 0; d->files && i < d->dirs; i++) {
        (void)snprintf(path, sizeof(path), "d%03" PRIu64, i);
        if (mkdirat(d->root_fd, path, 0755) < 0 && errno != EEXIST)
            return -errno;
    }
    return 0;
}

static int dataset_make(struct dataset *d)
{
    pthread_t threads[DATASET_THREADS];
    int rc = dataset_make_dirs(d);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < DATASET_THREADS; i++) {
        rc = pthread_create(&threads[i], NULL, dataset_thread, d);
        TARN_ASSERT(rc == 0);
    }
    for (size_t i = 0; i < DATASET_THREADS; i++)
        (void)pthread_join(threads[i], NULL); /* they are joinable and ours */
    return -d->error;
}

/* Returns 0, or -errno. */
static int dataset_write_manifest(const struct dataset *d, const char *name)
{
    char *draft;
    FILE *f;
    int rc = 0;

    if (asprintf(&draft, "%s.new", name) < 0)
        return -ENOMEM;
    f = fopen(draft, "we");
    if (!f)
        rc = -errno;
    for (uint64_t i = 0; rc == 0 && i < d->files + d->shards; i++) {
        char path[DATASET_PATH_MAX];

        dataset_path(d, i, path);
        if (fprintf(f, "%016" PRIx64 "  %s\n", d->hashes[i], path) < 0)
            rc = -EIO;
    }
    if (f && fclose(f) != 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(draft, name) < 0)
        rc = -errno;
    free(draft);
    return rc;
}

static int dataset_usage(void)
{
    (void)fputs("usage: make_dataset [-f FILES] [-d DIRS] [-m MIN] [-M MAX] [-n SHARDS] [-z SIZE] "
                "[-s SEED] ROOT MANIFEST\n"
                "  default: 10000 files of 4KiB to 200KiB in 100 directories, 2 shards of 256MiB\n",
                stderr);
    return 2;
}

static int dataset_option(struct dataset *d, int opt)
{
    switch (opt) {
    case 'f':
        return tarn_parse_u64(optarg, &d->files);
    case 'd':
        return tarn_parse_u64(optarg, &d->dirs);
    case 'm':
        return tarn_parse_size(optarg, &d->min_bytes);
    case 'M':
        return tarn_parse_size(optarg, &d->max_bytes);
    case 'n':
        return tarn_parse_u64(optarg, &d->shards);
    case 'z':
        return tarn_parse_size(optarg, &d->shard_bytes);
    case 's':
        return tarn_parse_u64(optarg, &d->seed);
    default:
        return -1;
    }
}

int main(int argc, char **argv)
{
    struct dataset d = {
        .files = 10000,
        .dirs = 100,
        .min_bytes = 4 << 10,
        .max_bytes = 200 << 10,
        .shards = 2,
        .shard_bytes = 256 << 20,
        .seed = 1,
    };
    const char *root;
    int opt, rc;

    while ((opt = getopt(argc, argv, "f:d:m:M:n:z:s:")) != -1) {
        if (dataset_option(&d, opt) < 0)
            return dataset_usage();
    }
    if (argc - optind != 2 || d.dirs < 1 || d.dirs > 1000 || d.files > 10000000 ||
        d.shards > 1000 || d.min_bytes > d.max_bytes)
        return dataset_usage();
    root = argv[optind];
    if (mkdir(root, 0755) < 0 && errno != EEXIST) {
        (void)fprintf(stderr, "make_dataset: %s: %s\n", root, strerrordesc_np(errno));
        return 1;
    }
    d.root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    d.hashes = calloc(d.files + d.shards + 1, sizeof(*d.hashes));
    TARN_ASSERT(d.hashes);
    rc = d.root_fd < 0 ? -errno : dataset_make(&d);
    if (rc == 0)
        rc = dataset_write_manifest(&d, argv[optind + 1]);
    if (rc < 0)
        (void)fprintf(stderr, "make_dataset: %s: %s\n", root, strerrordesc_np(-rc));
    free(d.hashes);
    if (d.root_fd >= 0)
        (void)close(d.root_fd);
    return rc < 0 ? 1 : 0;
}
