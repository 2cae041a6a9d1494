/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/conf/conf_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define TARN_CONF_STRUCT struct test_params
static const struct tarn_conf_param params_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tests/unit/lib/conf/test_params.def"
#undef TARN_PARAM
};
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct test_more
static const struct tarn_conf_param more_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tests/unit/lib/conf/test_more.def"
#undef TARN_PARAM
};
const struct tarn_conf_table test_more_table =
    TARN_CONF_TABLE("worker", "More parameters", more_rows);
#undef TARN_CONF_STRUCT

static int params_check(const void *params, struct tarn_errbuf *e)
{
    const struct test_params *p = params;

    if (p->low > p->high)
        return tarn_err_set(e, -TARN_E_CONFIG, "low is above high");
    return 0;
}

const struct tarn_conf_table test_params_table = {.name = "test",
                                                  .title = "Test parameters",
                                                  .params = params_rows,
                                                  .n = sizeof(params_rows) / sizeof(params_rows[0]),
                                                  .size = sizeof(struct test_params),
                                                  .check = params_check};

static char path[64];

const char *fixture_path(void)
{
    return path;
}

int fixture_load(struct conf_fixture *f, const struct tarn_conf_input *in)
{
    const struct tarn_conf_bind binds[] = {
        {&test_params_table, &f->p, TARN_CONF_FROM_COMMAND},
        {&test_more_table, &f->m, TARN_CONF_FROM_OPT | TARN_CONF_FROM_FILE},
    };

    f->c = NULL;
    f->e.text[0] = 0;
    return tarn_conf_load(binds, 2, in, &f->c, &f->e);
}

int fixture_load_file(struct conf_fixture *f, const char *text, mode_t mode)
{
    struct tarn_conf_input in = {.file = path};
    int fd, rc;

    (void)snprintf(path, sizeof(path), "/tmp/tarn_conf_XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
    rc = fixture_load(f, &in);
    assert_int_equal(unlink(path), 0);
    return rc;
}

int fixture_load_flag(struct conf_fixture *f, const char *key, const char *value)
{
    char shown[80];
    struct tarn_conf_arg arg = {key, value, shown};
    struct tarn_conf_input in = {.args = &arg, .n_args = 1};

    (void)snprintf(shown, sizeof(shown), "--%s", key);
    return fixture_load(f, &in);
}
