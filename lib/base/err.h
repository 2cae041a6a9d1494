/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/err.h — error codes: from err.def, one number for the code, the wire, the log and the
 * docs.
 *
 * A function that can fail returns 0 or a negative code: -TARN_E_* or -errno (1..999).
 */
#pragma once

#include <stddef.h>

enum tarn_err {
#define TARN_ERR(name, nr, err, retry, exit_class, text) TARN_E_##name = (nr),
#include "lib/base/err.def"
#undef TARN_ERR
    TARN_E_LAST
};

enum tarn_retry {
    TARN_RETRY_NEVER,
    TARN_RETRY_SAME,
    TARN_RETRY_BACKOFF,
    TARN_RETRY_LEADER,
    TARN_RETRY_REPLICA
};

/* The CLI's exit codes (docs/errors.md). */
enum tarn_exit {
    TARN_EXIT_DONE = 0,
    TARN_EXIT_FAIL = 1,
    TARN_EXIT_USAGE = 2,
    TARN_EXIT_UNREACH = 3,
    TARN_EXIT_TIMEOUT = 4,
    TARN_EXIT_DENIED = 5
};

/* A text for `rc` (either sign); static storage, never NULL. */
const char *tarn_strerror(int rc);
/* The symbolic name, for logs and JSON: "GRANULE_SUM", "ENOENT"; static storage. */
const char *tarn_err_name(int rc);
/* The errno (positive) for `rc`; used only where a reply leaves for the kernel and by the CLI. */
int tarn_err_errno(int rc);
enum tarn_retry tarn_err_retry(int rc);
enum tarn_exit tarn_err_exit(int rc);
/* True for the block of errors that stores cause: UFS_*. */
int tarn_err_of_store(int rc);
/* True if `nr` (positive) is a named error or an errno: what a peer may send. */
int tarn_err_known(int nr);

/*
 * A message for a person, built from the inside out: the deepest failure writes the cause, callers
 * prepend where ("load /etc/tarn.yaml: tier[2].path: not a directory"). Zeroed is empty and valid;
 * a NULL pointer is accepted everywhere and ignored.
 */
struct tarn_errbuf {
    char text[512]; /* NUL-terminated; cut at the end when too long */
};

/* Sets the text (drops an earlier one) and returns `rc`, so that it can stand in a return. */
int tarn_err_set(struct tarn_errbuf *e, int rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "<fmt>: " before the text; an empty text becomes tarn_strerror(rc). Returns `rc`. */
int tarn_err_wrap(struct tarn_errbuf *e, int rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The text, or tarn_strerror(rc) where nothing was set. */
const char *tarn_err_text(const struct tarn_errbuf *e, int rc);

/* First error wins: `rc` keeps its value if negative, else takes that of `call`. */
#define TARN_KEEP(rc, call)                                                                        \
    do {                                                                                           \
        int keep_rc_ = (call);                                                                     \
        if ((rc) >= 0 && keep_rc_ < 0)                                                             \
            (rc) = keep_rc_;                                                                       \
    } while (0)
