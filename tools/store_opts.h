/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/store_opts.h — the options of a store as a command gets them: -o, then the section `ufs` of
 * the configuration file (secrets only there, and only when its mode is 0600).
 */
#pragma once

#include "tools/cli.h"
#include "ufs/ufs_opts.h"

/* Texts are borrowed from *ret_conf. CONFIG, SECRET_ARGV, with a text. */
int store_opts_load(struct cli *c, struct tarn_ufs_opts *ret_opts, struct tarn_conf **ret_conf);

/*
 * The same for another process: those that were given, as texts K=V[,K=V...] that
 * tarn_ufs_opts_parse() takes; secrets apart, read from the files that hold them here.
 */
struct store_texts {
    char **options;
    size_t n_options;
    char **secrets;
    size_t n_secrets;
};
/* DENIED, CONFIG, with a text: a file cannot be read. */
int store_opts_texts(struct cli *c, const struct tarn_ufs_opts *opts, const struct tarn_conf *conf,
                     struct store_texts *ret);
void store_texts_fini(struct store_texts *t); /* overwrites secrets */
