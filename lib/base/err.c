/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    int nr;  /* positive number */
    int err; /* errno for the kernel */
    enum tarn_retry retry;
    enum tarn_exit exit_class;
    const char *name;
    const char *text;
};

static const struct err_row err_rows[] = {
#define TARN_ERR(name, nr, err, retry, exit_class, text)                                           \
    {(nr), (err), TARN_RETRY_##retry, TARN_EXIT_##exit_class, #name, text},
#include "lib/base/err.def"
#undef TARN_ERR
};

static int err_number(int rc)
{
    if (rc == INT_MIN)
        return INT_MAX; /* unknown, too */
    return rc < 0 ? -rc : rc;
}

static const struct err_row *err_find(int rc)
{
    int nr = err_number(rc);

    for (size_t i = 0; i < sizeof(err_rows) / sizeof(err_rows[0]); i++)
        if (err_rows[i].nr == nr)
            return &err_rows[i];
    return NULL;
}

const char *tarn_strerror(int rc)
{
    const struct err_row *row = err_find(rc);
    const char *text;

    if (rc == 0)
        return "success";
    if (row)
        return row->text;
    text = strerrordesc_np(err_number(rc));
    return text ? text : "unknown error";
}

const char *tarn_err_name(int rc)
{
    const struct err_row *row = err_find(rc);
    const char *name;

    if (rc == 0)
        return "OK";
    if (row)
        return row->name;
    name = strerrorname_np(err_number(rc));
    return name ? name : "UNKNOWN";
}

int tarn_err_errno(int rc)
{
    const struct err_row *row = err_find(rc);
    int nr = err_number(rc);

    if (row)
        return row->err;
    return nr < 1000 ? nr : EIO;
}

enum tarn_retry tarn_err_retry(int rc)
{
    const struct err_row *row = err_find(rc);

    return row ? row->retry : TARN_RETRY_NEVER;
}

enum tarn_exit tarn_err_exit(int rc)
{
    const struct err_row *row = err_find(rc);
    int nr = err_number(rc);

    if (rc == 0)
        return TARN_EXIT_DONE;
    if (row)
        return row->exit_class;
    switch (nr) {
    case EACCES:
    case EPERM:
        return TARN_EXIT_DENIED;
    case ETIMEDOUT:
        return TARN_EXIT_TIMEOUT;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return TARN_EXIT_UNREACH;
    default:
        return TARN_EXIT_FAIL;
    }
}

int tarn_err_of_store(int rc)
{
    int nr = rc == INT_MIN ? 0 : rc < 0 ? -rc : rc;

    return nr >= TARN_E_UFS_DNS && nr < TARN_E_NO_ENTRY;
}

int tarn_err_known(int nr)
{
    return nr > 0 && (err_find(nr) || (nr < 1000 && strerrorname_np(nr)));
}

int tarn_err_set(struct tarn_errbuf *e, int rc, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return rc;
    va_start(ap, fmt);
    (void)vsnprintf(e->text, sizeof(e->text), fmt, ap); /* cut is fine */
    va_end(ap);
    return rc;
}

int tarn_err_wrap(struct tarn_errbuf *e, int rc, const char *fmt, ...)
{
    char inner[sizeof(e->text)];
    va_list ap;
    int n;

    if (!e)
        return rc;
    memcpy(inner, e->text[0] ? e->text : "", e->text[0] ? sizeof(inner) : 1);
    va_start(ap, fmt);
    n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(e->text))
        (void)snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %.*s",
                       (int)(sizeof(e->text) - (size_t)n), /* cut is fine */
                       inner[0] ? inner : tarn_strerror(rc));
    return rc;
}

const char *tarn_err_text(const struct tarn_errbuf *e, int rc)
{
    return e && e->text[0] ? e->text : tarn_strerror(rc);
}
