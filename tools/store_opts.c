/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a store: read with their sources, and written again for the processes that open it. */
#include "tools/store_opts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

#define SECRET_MAX 8192u /* bytes of a file that holds one */

/* Others see the command line: no password there, in whatever form. */
static int check_proxy(struct cli *c, const struct tarn_ufs_opts *opts,
                       const struct tarn_conf *conf)
{
    if (!strchr(opts->proxy, '@') || !tarn_starts_with(tarn_conf_source(conf, "proxy"), "option"))
        return 0;
    return tarn_err_set(&c->err, -TARN_E_SECRET_ARGV,
                        "-o proxy: a password is not taken on the command line, where others can "
                        "read it; use \"proxy:\" in a config file of mode 0600");
}

int store_opts_load(struct cli *c, struct tarn_ufs_opts *ret_opts, struct tarn_conf **ret_conf)
{
    struct tarn_conf_bind bind = {&tarn_ufs_opts_table, ret_opts,
                                  TARN_CONF_FROM_OPT | TARN_CONF_FROM_FILE};
    struct tarn_conf_input in = {.opts = c->store.option.v,
                                 .n_opts = c->store.option.n,
                                 .file = c->common.config[0] ? c->common.config : NULL,
                                 .others = cli_all_tables};
    int rc = tarn_conf_load(&bind, 1, &in, ret_conf, &c->err);

    return rc < 0 ? rc : check_proxy(c, ret_opts, *ret_conf);
}

/* ---- as texts ---------------------------------------------------------------------------------
 */

static void texts_add(char ***list, size_t *n, char *text)
{
    *list = tarn_xrealloc(*list, (*n + 1) * sizeof(**list));
    (*list)[(*n)++] = text;
}

/* "KEY=VALUE", where commas of the value do not end it. */
static char *text_of(const char *key, const char *value, size_t len)
{
    struct tarn_str s = {0};
    char *text;

    tarn_str_addf(&s, "%s=", key);
    for (size_t i = 0; i < len; i++) {
        if (value[i] == ',' || value[i] == '\\')
            tarn_str_addc(&s, '\\');
        tarn_str_addc(&s, value[i]);
    }
    text = tarn_xstrdup(tarn_str_z(&s));
    tarn_wipe(s.p, s.cap); /* it may be a secret */
    tarn_str_fini(&s);
    return text;
}

/* The value of a row, in the grammar of its type. The caller frees it. */
static char *value_of(const struct tarn_ufs_opts *opts, const struct tarn_conf_param *p)
{
    const void *field = (const char *)opts + p->offset;
    char choice[64];

    switch (p->type) {
    case TARN_CONF_T_BOOL:
        return tarn_xstrdup(*(const bool *)field ? "true" : "false");
    case TARN_CONF_T_DURATION:
        return tarn_xasprintf("%" PRIu64 "ns", *(const uint64_t *)field);
    case TARN_CONF_T_RATE:
        return tarn_xasprintf("%" PRIu64 "/s", *(const uint64_t *)field);
    case TARN_CONF_T_UINT:
    case TARN_CONF_T_SIZE:
        return tarn_xasprintf("%" PRIu64, *(const uint64_t *)field);
    case TARN_CONF_T_ENUM:
        return tarn_xstrdup(tarn_conf_choice(p, *(const unsigned *)field, choice));
    case TARN_CONF_T_STRING:
    case TARN_CONF_T_PATH:
        return tarn_xstrdup(*(const char *const *)field);
    case TARN_CONF_T_PERCENT:
    case TARN_CONF_T_LIST:
    case TARN_CONF_T_TTL:
        break; /* stores have none of these */
    }
    TARN_UNREACHABLE("an option of a store of a type that is not written");
}

/* Reads a file that holds a secret, without the newline at its end. */
static int secret_read(struct cli *c, const char *key, const char *path, char ret[SECRET_MAX],
                       size_t *ret_len)
{
    TARN_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, SECRET_MAX);

    if (n < 0)
        return tarn_err_set(&c->err, errno == EACCES ? -TARN_E_DENIED : -TARN_E_CONFIG,
                            "-o %s=%s: %s", key, path, strerrordesc_np(errno));
    while (n > 0 && (ret[n - 1] == '\n' || ret[n - 1] == '\r' || ret[n - 1] == ' '))
        n--;
    if (n == 0 || n == SECRET_MAX)
        return tarn_err_set(&c->err, -TARN_E_CONFIG, "-o %s=%s: %s", key, path,
                            n ? "is larger than a key" : "is empty");
    *ret_len = (size_t)n;
    return 0;
}

/*
 * Options that name a file here, and what is sent in their place. The first is no secret, but shown
 * as what was given: the file.
 */
static const struct {
    const char *file, *key;
} secret_files[] = {
    {"key-file", "access-key"}, {"secret-file", "secret-key"}, {"token-file", "session-token"}};

static int text_add(struct cli *c, const struct tarn_conf_param *p, const char *value,
                    struct store_texts *t)
{
    bool secret = (p->flags & TARN_CONF_F_SECRET) || strcmp(p->name, "proxy") == 0;
    char key[64], buf[SECRET_MAX];
    size_t len = 0;
    int rc;

    (void)tarn_conf_key(p, key);
    for (size_t i = 0; i < TARN_ARRAY_LEN(secret_files); i++) {
        if (strcmp(key, secret_files[i].file) != 0)
            continue;
        rc = secret_read(c, key, value, buf, &len);
        if (rc == 0 && i == 0)
            texts_add(&t->options, &t->n_options, text_of(key, value, strlen(value)));
        if (rc == 0)
            texts_add(&t->secrets, &t->n_secrets, text_of(secret_files[i].key, buf, len));
        tarn_wipe(buf, sizeof(buf));
        return rc;
    }
    if (secret && (strcmp(p->name, "proxy") != 0 || strchr(value, '@')))
        texts_add(&t->secrets, &t->n_secrets, text_of(key, value, strlen(value)));
    else
        texts_add(&t->options, &t->n_options, text_of(key, value, strlen(value)));
    return 0;
}

int store_opts_texts(struct cli *c, const struct tarn_ufs_opts *opts, const struct tarn_conf *conf,
                     struct store_texts *ret)
{
    char key[64];
    int rc = 0;

    *ret = (struct store_texts){0};
    for (size_t i = 0; i < tarn_ufs_opts_table.n && rc == 0; i++) {
        const struct tarn_conf_param *p = &tarn_ufs_opts_table.params[i];
        char *value;

        if (strcmp(tarn_conf_source(conf, tarn_conf_key(p, key)), "default") == 0)
            continue;
        value = value_of(opts, p);
        if (value[0])
            rc = text_add(c, p, value, ret);
        tarn_wipe(value, strlen(value));
        free(value);
    }
    if (rc < 0)
        store_texts_fini(ret);
    return rc;
}

void store_texts_fini(struct store_texts *t)
{
    for (size_t i = 0; i < t->n_options; i++)
        free(t->options[i]);
    for (size_t i = 0; i < t->n_secrets; i++) {
        tarn_wipe(t->secrets[i], strlen(t->secrets[i]));
        free(t->secrets[i]);
    }
    free(t->options);
    free(t->secrets);
    *t = (struct store_texts){0};
}
