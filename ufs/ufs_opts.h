/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/ufs_opts.h — the options of a store (ufs_params.def), and how a text of them is read.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/conf/conf.h"

struct tarn_errbuf;

/* Choices of `credentials`, in the order of the table. */
enum tarn_ufs_credentials {
    TARN_UFS_CRED_AUTO,
    TARN_UFS_CRED_STATIC,
    TARN_UFS_CRED_ENV,
    TARN_UFS_CRED_FILE,
    TARN_UFS_CRED_ANONYMOUS
};

/* Choices of `path-style`, in the order of the table. */
enum tarn_ufs_path_style { TARN_UFS_PATH_AUTO, TARN_UFS_PATH_TRUE, TARN_UFS_PATH_FALSE };

#define TARN_UFS_OWNER_UNSET UINT64_C(0xffffffff) /* uid, gid: the mounter's */

/* Filled by lib/conf; texts are borrowed from the struct tarn_conf that loaded them. */
struct tarn_ufs_opts {
#define TARN_PARAM TARN_CONF_FIELD
#include "ufs/ufs_params.def"
#undef TARN_PARAM
};

extern const struct tarn_conf_table tarn_ufs_opts_table;

/*
 * Reads `n` texts "K=V[,K=V...]" over the defaults. `trusted`: not from a command line, so that
 * secrets are allowed, and a text "key-file=PATH" only says where a text "access-key=ID" is from.
 * The texts in *ret_opts live until tarn_conf_free(ret_conf). Errors: CONFIG (an unknown option
 * names the nearest one), SECRET_ARGV
 */
int tarn_ufs_opts_parse(const char *const *texts, size_t n, bool trusted,
                        struct tarn_ufs_opts *ret_opts, struct tarn_conf **ret_conf,
                        struct tarn_errbuf *err);
/* "0644" -> 0644; the table's check has seen that it is octal. */
uint32_t tarn_ufs_opts_mode(const char *octal);

/* A copy that owns its texts, and its end: secrets are overwritten. */
void tarn_ufs_opts_copy(const struct tarn_ufs_opts *from, struct tarn_ufs_opts *ret_to);
void tarn_ufs_opts_fini(struct tarn_ufs_opts *o);
