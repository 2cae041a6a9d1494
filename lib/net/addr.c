/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses as people write them. Numbers are turned into socket addresses here, without a resolver
 * and without blocking; names are left to the caller.
 */
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/str.h"
#include "lib/base/units.h"
#include "lib/net/net_priv.h"

#define ADDR_UNIX_PREFIX "unix:"

static int addr_parse_unix(const char *path, struct tarn_addr *ret)
{
    size_t n = strlen(path);

    if (path[0] != '/')
        return -TARN_E_INVALID;
    if (n >= sizeof(ret->sock.u.un.sun_path))
        return -ENAMETOOLONG;
    ret->sock.u.un.sun_family = AF_UNIX;
    memcpy(ret->sock.u.un.sun_path, path, n + 1);
    ret->sock.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return 0;
}

static int addr_parse_port(const char *s, struct tarn_addr *ret)
{
    uint64_t v;

    if (tarn_parse_u64(s, &v) < 0 || v > UINT16_MAX)
        return -TARN_E_INVALID;
    (void)snprintf(ret->port, sizeof(ret->port), "%u", (unsigned)v); /* at most 5 digits */
    return 0;
}

/* Letters, digits, '-', '_' and '.': what a host name or an IPv4 number is made of. */
static int addr_check_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-_.", s[i]))
            return -TARN_E_INVALID;
    return 0;
}

static void addr_try_number(struct tarn_addr *a)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;

    if (getaddrinfo(a->host, a->port, &hints, &list) != 0)
        return;
    TARN_ASSERT(list && list->ai_addrlen <= sizeof(a->sock.u));
    memcpy(&a->sock.u, list->ai_addr, list->ai_addrlen);
    a->sock.len = list->ai_addrlen;
    freeaddrinfo(list);
}

int tarn_addr_parse(const char *text, struct tarn_addr *ret)
{
    const char *host = text, *end, *colon;
    bool bracket = text[0] == '[';
    int rc;

    memset(ret, 0, sizeof(*ret));
    if (tarn_starts_with(text, ADDR_UNIX_PREFIX))
        return addr_parse_unix(text + strlen(ADDR_UNIX_PREFIX), ret);
    if (bracket)
        host++;
    end = strchr(host, bracket ? ']' : ':');
    if (!end || end == host || (size_t)(end - host) >= sizeof(ret->host))
        return -TARN_E_INVALID;
    colon = bracket ? end + 1 : end;
    if (*colon != ':')
        return -TARN_E_INVALID;
    if (!bracket && addr_check_name(host, (size_t)(end - host)) < 0)
        return -TARN_E_INVALID;
    memcpy(ret->host, host, (size_t)(end - host));
    rc = addr_parse_port(colon + 1, ret);
    if (rc < 0)
        return rc;
    addr_try_number(ret);
    if (bracket && (ret->sock.len == 0 || ret->sock.u.sa.sa_family != AF_INET6))
        return -TARN_E_INVALID;
    return 0;
}

const char *tarn_addr_text(const struct tarn_sockaddr *a, char buf[TARN_ADDR_TEXT_MAX])
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    size_t max = TARN_ADDR_TEXT_MAX;
    int n;

    if (a->u.sa.sa_family == AF_UNIX) {
        n = snprintf(buf, max, ADDR_UNIX_PREFIX "%s", a->u.un.sun_path);
    } else if (getnameinfo(&a->u.sa, a->len, host, sizeof(host), port, sizeof(port),
                           NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        bool v6 = a->u.sa.sa_family == AF_INET6;

        n = snprintf(buf, max, v6 ? "[%.256s]:%s" : "%.256s:%s", host, port);
    } else {
        n = snprintf(buf, max, "?");
    }
    TARN_ASSERT(n > 0 && (size_t)n < max);
    return buf;
}
