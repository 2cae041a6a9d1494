/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/http/http_priv.h — the listening socket.
 */
#pragma once

#include <stddef.h>

struct tarn_errbuf;

/* Binds and listens; `ret_addr` gets the address with its port. Errors: as tarn_http_start. */
int tarn_http_listen(const char *addr, int *ret_fd, char *ret_addr, size_t addr_size,
                     struct tarn_errbuf *e);
