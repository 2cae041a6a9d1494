/* SPDX-License-Identifier: Apache-2.0 */
/* Two tables for the tests of lib/conf, and files to load. */
#pragma once

#include <sys/types.h>

#include "lib/base/err.h"
#include "lib/conf/conf.h"

struct test_params {
#define TARN_PARAM TARN_CONF_FIELD
#include "tests/unit/lib/conf/test_params.def"
#undef TARN_PARAM
};

struct test_more {
#define TARN_PARAM TARN_CONF_FIELD
#include "tests/unit/lib/conf/test_more.def"
#undef TARN_PARAM
};

extern const struct tarn_conf_table test_params_table; /* has a check: low <= high */
extern const struct tarn_conf_table test_more_table;

/* Both structs and what the load of them gave. */
struct conf_fixture {
    struct test_params p; /* from flags, environment and file */
    struct test_more m;   /* from options and file */
    struct tarn_conf *c;  /* NULL after an error */
    struct tarn_errbuf e; /* the text of the error */
};

int fixture_load(struct conf_fixture *f, const struct tarn_conf_input *in);
/* Loads a file of that text and mode; it is removed again. Its path is in fixture_path(). */
int fixture_load_file(struct conf_fixture *f, const char *text, mode_t mode);
const char *fixture_path(void);
/* One flag. */
int fixture_load_flag(struct conf_fixture *f, const char *key, const char *value);
