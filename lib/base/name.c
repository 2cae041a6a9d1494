/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/name.h"

#include <string.h>

#include "lib/base/err.h"

bool tarn_name_ok(const char *name, size_t len)
{
    if (len == 0 || len > TARN_NAME_MAX)
        return false;
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
        return false;
    return !memchr(name, '/', len) && !memchr(name, 0, len);
}

const char *tarn_path_next(const char **p, size_t *ret_len)
{
    const char *start;

    while (**p == '/')
        (*p)++;
    if (!**p)
        return NULL;
    start = *p;
    while (**p && **p != '/')
        (*p)++;
    *ret_len = (size_t)(*p - start);
    return start;
}

int tarn_path_normalize(const char *in, char *ret)
{
    char out[TARN_PATH_MAX];
    size_t n = 0, len;
    const char *name;

    while ((name = tarn_path_next(&in, &len)) != NULL) {
        if (len == 1 && name[0] == '.')
            continue;
        if (len > TARN_NAME_MAX)
            return -TARN_E_NAME_TOO_LONG;
        if (!tarn_name_ok(name, len))
            return -TARN_E_NAME_BAD;
        if (n + 1 + len + 1 > sizeof(out))
            return -TARN_E_NAME_TOO_LONG;
        out[n++] = '/';
        memcpy(out + n, name, len);
        n += len;
    }
    if (n == 0)
        out[n++] = '/';
    out[n++] = 0;
    memcpy(ret, out, n);
    return 0;
}
