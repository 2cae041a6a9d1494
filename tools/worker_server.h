/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/worker_server.h — `tarn worker` as its files see it: cmd_worker.c has its flags and words,
 * worker_server.c what serves, worker_admin.c what asks the master about workers.
 */
#pragma once

#include "tools/cli.h"

struct cli_worker {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/worker_params.def"
#undef TARN_PARAM
};

int worker_serve(struct cli *c);

int worker_ls(struct cli *c);
/* `id` as typed. */
int worker_drain(struct cli *c, const char *id);
int worker_remove(struct cli *c, const char *id);
