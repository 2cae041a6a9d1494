/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket is made here and not by the HTTP library, so that each failure has its cause.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/http/http_priv.h"

#define HTTP_BACKLOG 128

/* "127.0.0.1:80", "[::1]:80", "name:80". */
static int listen_split(const char *addr, char host[256], char port[8])
{
    const char *colon = strrchr(addr, ':'), *start = addr, *end = colon;
    uint64_t n;

    if (!colon || tarn_parse_u64(colon + 1, &n) < 0 || n > 65535)
        return -TARN_E_INVALID;
    if (addr[0] == '[') {
        start++;
        end--;
        if (end < start || *end != ']')
            return -TARN_E_INVALID;
    } else if (memchr(addr, ':', (size_t)(colon - addr))) {
        return -TARN_E_INVALID; /* IPv6 without brackets */
    }
    if (end == start || end - start > 255)
        return -TARN_E_INVALID;
    (void)snprintf(host, 256, "%.*s", (int)(end - start), start); /* fits */
    (void)snprintf(port, 8, "%u", (unsigned)n);                   /* fits */
    return 0;
}

static int listen_one(const struct addrinfo *ai, int *ret_fd)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, rc;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, HTTP_BACKLOG) < 0) {
        rc = errno == EADDRINUSE ? -TARN_E_ADDR_IN_USE : -errno;
        (void)close(fd); /* nothing was written */
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

static int listen_name(int fd, char *ret_addr, size_t size)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        return -errno;
    if (getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -TARN_E_INTERNAL;
    (void)snprintf(ret_addr, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port); /* fits */
    return 0;
}

int tarn_http_listen(const char *addr, int *ret_fd, char *ret_addr, size_t addr_size,
                     struct tarn_errbuf *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list, *ai;
    char host[256], port[8];
    int fd = -1, rc = listen_split(addr, host, port);

    if (rc < 0)
        return tarn_err_set(e, rc, "\"%s\" is not an address to listen on (HOST:PORT)", addr);
    rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0)
        return tarn_err_set(e, -TARN_E_INVALID, "%s: %s", addr, gai_strerror(rc));
    rc = -TARN_E_INVALID;
    for (ai = list; ai && fd < 0; ai = ai->ai_next)
        rc = listen_one(ai, &fd);
    freeaddrinfo(list);
    if (rc < 0)
        return tarn_err_set(e, rc, "%s: %s", addr, tarn_strerror(rc));
    rc = listen_name(fd, ret_addr, addr_size);
    if (rc < 0) {
        (void)close(fd); /* nothing was written */
        return rc;
    }
    *ret_fd = fd;
    return 0;
}
