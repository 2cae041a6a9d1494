/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/local_http.h — metrics and health of `tarn local`. Figures of objects that belong to the
 * loop are copied on it whenever somebody asks for the metrics.
 */
#pragma once

#include "lib/base/err.h"

struct local_http;
struct tarn_client;
struct tarn_fuse;
struct tarn_loop;
struct tarn_master;
struct tarn_tier;
struct tarn_worker;

struct local_http_args {
    struct tarn_loop *loop;
    const char
        *addr; /* "": the first free port of `ports` from `first_port` on; "none": no listener */
    unsigned first_port, ports;
    struct tarn_master *master;
    struct tarn_worker *worker;
    struct tarn_tier *tier;
    struct tarn_client *client;
    struct tarn_fuse *fuse;
};
int local_http_start(const struct local_http_args *args, struct tarn_errbuf *err,
                     struct local_http **ret);
const char *local_http_addr(const struct local_http *h); /* "none" without a listener */
/* Thread: the loop's, which must turn once more (tarn_loop_free does). */
void local_http_stop(struct local_http **h);
