/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/credentials_priv.h — where keys come from. Secrets never appear in error texts.
 */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

struct tarn_ufs_opts;

struct tarn_ufs_credentials_set {
    char *access_key; /* NULL: requests are not signed */
    char *secret_key; /* beside access_key */
    char *token;      /* session token, or NULL */
    char *source;     /* for people: "options", "environment", "/root/.aws/credentials [default]" */
    bool reloadable;  /* it came from files, which may change */
};

/*
 * Finds credentials as `opts->credentials` says; auto tries options, environment, file in this
 * order. Errors: UFS_CREDENTIALS (the text says what was looked at), CONFIG (a file cannot be read
 * or used)
 */
int tarn_ufs_credentials_find(const struct tarn_ufs_opts *opts, struct tarn_errbuf *err,
                              struct tarn_ufs_credentials_set *ret);
/* Overwrites and frees; zeroed is accepted. */
void tarn_ufs_credentials_fini(struct tarn_ufs_credentials_set *c);

/*
 * Reads one profile of an AWS credentials file's text (INI; `n` bytes, modified). False when it has
 * no such profile or the profile lacks a key. Pure.
 */
bool tarn_ufs_credentials_ini(char *text, const char *profile,
                              struct tarn_ufs_credentials_set *ret);
