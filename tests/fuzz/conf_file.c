/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a configuration file (YAML) loaded over a small table, and a `-o` text made of the
 * same bytes. Nothing crashes; what is accepted can be printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/conf/conf.h"

struct fuzz_params {
    bool flag;
    uint64_t size, ttl;
    const char *text;
    unsigned choice;
    struct tarn_conf_list list;
};

#define TARN_CONF_STRUCT struct fuzz_params
static const struct tarn_conf_param rows[] = {
    TARN_CONF_ROW(flag, BOOL, "false", "", "", "", 0, "A flag.")                //
    TARN_CONF_ROW(size, SIZE, "1MiB", "4KiB", "1TiB", "bytes", 0, "A size.")    //
    TARN_CONF_ROW(ttl, TTL, "60s", "1ms", "1h", "ns", 0, "A TTL.")              //
    TARN_CONF_ROW(text, STRING, "", "", "64", "", 0, "A text.")                 //
    TARN_CONF_ROW(choice, ENUM, "one", "one|two|three", "", "", 0, "A choice.") //
    TARN_CONF_ROW(list, LIST, "", "0", "8", "", 0, "A list.")                   //
};
static const struct tarn_conf_table table = TARN_CONF_TABLE("fuzz", "Fuzz", rows);

static void load(const struct tarn_conf_input *in, unsigned from)
{
    struct fuzz_params p;
    struct tarn_conf_bind bind = {&table, &p, from};
    struct tarn_errbuf err = {{0}};
    struct tarn_conf *conf = NULL;
    struct tarn_str out = {0};

    if (tarn_conf_load(&bind, 1, in, &conf, &err) == 0) {
        tarn_conf_print_text(conf, &out);
        tarn_conf_print_json(conf, &out);
        if (p.size < 4096 || p.choice > 2 || p.list.n > 8)
            abort();
    } else if (!err.text[0]) {
        abort(); /* a refusal says why */
    }
    tarn_str_fini(&out);
    tarn_conf_free(&conf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tarn_conf_input in = {0};
    char path[64];
    char *text;
    const char *opts[1];
    int fd = memfd_create("conf", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* fits */
    in.file = path;
    load(&in, TARN_CONF_FROM_COMMAND);
    (void)close(fd); /* only read from by then */
    text = calloc(1, size + 1);
    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    opts[0] = text;
    in = (struct tarn_conf_input){.opts = opts, .n_opts = 1};
    load(&in, TARN_CONF_FROM_OPT);
    free(text);
    return 0;
}
