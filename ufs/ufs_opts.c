/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of a store: the table, its checks, and owned copies. A copy duplicates every text
 * field; which fields are texts is known from the table, so that a new row needs no code here.
 */
#include "ufs/ufs_opts.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define TARN_CONF_STRUCT struct tarn_ufs_opts
static const struct tarn_conf_param opts_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "ufs/ufs_params.def"
#undef TARN_PARAM
};

static bool opts_is_octal(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (*s < '0' || *s > '7')
            return false;
    return true;
}

static int opts_check(const void *params, struct tarn_errbuf *e)
{
    const struct tarn_ufs_opts *o = params;

    if (!opts_is_octal(o->file_mode) || tarn_ufs_opts_mode(o->file_mode) > 0777)
        return tarn_err_set(e, -TARN_E_CONFIG, "file-mode: \"%s\" is not an octal mode up to 0777",
                            o->file_mode);
    if (!opts_is_octal(o->dir_mode) || tarn_ufs_opts_mode(o->dir_mode) > 0777)
        return tarn_err_set(e, -TARN_E_CONFIG, "dir-mode: \"%s\" is not an octal mode up to 0777",
                            o->dir_mode);
    if (*o->access_key && *o->key_file)
        return tarn_err_set(e, -TARN_E_CONFIG, "access-key and key-file: give one of them");
    if (*o->secret_key && *o->secret_file)
        return tarn_err_set(e, -TARN_E_CONFIG, "secret-key and secret-file: give one of them");
    if (*o->session_token && *o->token_file)
        return tarn_err_set(e, -TARN_E_CONFIG, "session-token and token-file: give one of them");
    return 0;
}

const struct tarn_conf_table tarn_ufs_opts_table = {
    .name = "ufs",
    .title = "Options of a store",
    .params = opts_rows,
    .n = TARN_ARRAY_LEN(opts_rows),
    .size = sizeof(struct tarn_ufs_opts),
    .check = opts_check,
    .no_env = true, /* TARN_TIMEOUT and TARN_TOKEN_FILE are those of commands */
};

/* A file whose content was sent along: where it is read it may be another, or none. */
static bool opts_sent(const char *text, const char *const *texts, size_t n)
{
    if (!tarn_starts_with(text, "key-file="))
        return false;
    for (size_t i = 0; i < n; i++)
        if (tarn_starts_with(texts[i], "access-key="))
            return true;
    return false;
}

int tarn_ufs_opts_parse(const char *const *texts, size_t n, bool trusted,
                        struct tarn_ufs_opts *ret_opts, struct tarn_conf **ret_conf,
                        struct tarn_errbuf *err)
{
    struct tarn_conf_bind bind = {&tarn_ufs_opts_table, ret_opts, TARN_CONF_FROM_OPT};
    TARN_AUTO_FREE const char **read = tarn_xcalloc(n + 1, sizeof(char *));
    struct tarn_conf_input in = {.opts = read, .opts_trusted = trusted};

    for (size_t i = 0; i < n; i++)
        if (!trusted || !opts_sent(texts[i], texts, n))
            read[in.n_opts++] = texts[i];
    return tarn_conf_load(&bind, 1, &in, ret_conf, err);
}

uint32_t tarn_ufs_opts_mode(const char *octal)
{
    uint32_t mode = 0;

    for (; *octal; octal++)
        mode = mode * 8 + (uint32_t)(*octal - '0');
    return mode;
}

static bool opts_row_is_text(const struct tarn_conf_param *p)
{
    TARN_ASSERT(p->type != TARN_CONF_T_LIST);
    return p->type == TARN_CONF_T_STRING || p->type == TARN_CONF_T_PATH;
}

static const char **opts_field(struct tarn_ufs_opts *o, const struct tarn_conf_param *p)
{
    return (const char **)(void *)((char *)o + p->offset);
}

void tarn_ufs_opts_copy(const struct tarn_ufs_opts *from, struct tarn_ufs_opts *ret_to)
{
    *ret_to = *from;
    for (size_t i = 0; i < TARN_ARRAY_LEN(opts_rows); i++) {
        if (opts_row_is_text(&opts_rows[i])) {
            const char **field = opts_field(ret_to, &opts_rows[i]);

            *field = tarn_xstrdup(*field ? *field : "");
        }
    }
}

void tarn_ufs_opts_fini(struct tarn_ufs_opts *o)
{
    for (size_t i = 0; i < TARN_ARRAY_LEN(opts_rows); i++) {
        const char **field;
        char *text;

        if (!opts_row_is_text(&opts_rows[i]))
            continue;
        field = opts_field(o, &opts_rows[i]);
        memcpy(&text, field, sizeof(text)); /* ours since the copy, so not const */
        if (text && (opts_rows[i].flags & TARN_CONF_F_SECRET))
            tarn_wipe(text, strlen(text));
        free(text);
    }
    *o = (struct tarn_ufs_opts){0};
}
