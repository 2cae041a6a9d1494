/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor: checks the host, and the server if one runs: one line per check, ok, warn or fail, and
 * what mends it. A warning costs speed or a feature; a failure means that something will not work.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cache_dir.h"
#include "tools/cli.h"
#include "tools/doctor.h"

#define DOCTOR_PORT      7100u
#define DOCTOR_HTTP_PORT 7101u
#define PROBE_S          2
#define ASK_S            3u /* what the store has to answer within */

/* ---- the server ----------------------------------------------------------------------------- */

/* Has the server ask the store now: what it knows from before may be old. */
static void doctor_mount(struct cli *c, struct doctor *d, const Tarn__Wire__MountStatus *m)
{
    Tarn__Wire__StoreAskRequest msg = TARN__WIRE__STORE_ASK_REQUEST__INIT;
    const Tarn__Wire__StoreAskResponse *resp;
    struct tarn_rpc_req req;
    int rc;

    msg.id = m->id;
    msg.wait_ms = ASK_S * 1000;
    rc = cli_call_waiting(c, &req, TARN_RPC_store_ask, &msg.base, ASK_S * TARN_NS_PER_S,
                          "ask the store");
    resp = (const Tarn__Wire__StoreAskResponse *)req.resp;
    if (rc < 0) {
        doctor_add(d, "store", DOCTOR_WARN, "run this again", "%s was not asked: %s", m->ufs,
                   tarn_err_text(&c->err, rc));
        c->err.text[0] = 0; /* it is in the finding now */
    } else if (resp->error_text[0]) {
        doctor_add(d, "store", DOCTOR_FAIL, "the text says what the store or the network lacks",
                   "%s: %s", m->ufs, resp->error_text);
    } else {
        doctor_add(d, "store", DOCTOR_OK, "", "%s answers", m->ufs);
    }
    tarn_rpc_req_fini(&req);
}

static void doctor_tier(struct doctor *d, const Tarn__Wire__Tier *t)
{
    char size[32];

    if (t->offline)
        doctor_add(d, "cache", DOCTOR_FAIL, "look at the disk, then start the server again",
                   "%s failed and is not used any more", t->path);
    else
        doctor_add(d, "cache", t->checksum_errors ? DOCTOR_WARN : DOCTOR_OK,
                   t->checksum_errors ? "the disk returns wrong bytes now and then: replace it"
                                      : "",
                   "%s: %s cached, %llu checksum errors", t->path, tarn_format_size(t->data, size),
                   (unsigned long long)t->checksum_errors);
}

static int doctor_status(struct cli *c, struct doctor *d)
{
    Tarn__Wire__StatusResponse *st;
    int rc = cli_status(c, &st);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < st->n_mounts; i++)
        doctor_mount(c, d, st->mounts[i]);
    for (size_t i = 0; i < st->n_workers; i++)
        for (size_t t = 0; t < st->workers[i]->n_tiers; t++)
            doctor_tier(d, st->workers[i]->tiers[t]);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return 0;
}

static void doctor_server(struct cli *c, struct doctor *d)
{
    bool named = strcmp(tarn_conf_source(c->conf, "master"), "default") != 0;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = doctor_status(c, d);
    if (rc == 0)
        doctor_add(d, "server", DOCTOR_OK, "", "%s serves this user", c->remote.master);
    else if (rc == -TARN_E_CONN_REFUSED && !named)
        doctor_add(d, "server", DOCTOR_OK, "", "none runs at %s", c->remote.master);
    else
        doctor_add(d, "server", DOCTOR_FAIL,
                   tarn_err_exit(rc) == TARN_EXIT_DENIED
                       ? "run this as the user that runs the server, or name its --token-file"
                       : "start it, or name another by --master",
                   "%s", tarn_err_text(&c->err, rc));
    c->err.text[0] = 0; /* it is in the finding now */
}

/* ---- ports ------------------------------------------------------------------------------------
 */

static struct sockaddr_in loopback(unsigned port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static bool port_is_free(unsigned port)
{
    struct sockaddr_in a = loopback(port);
    TARN_AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* as the server does */
    return fd >= 0 && bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 1) == 0;
}

/* Whether the HTTP listener at a port says that it is tarn's. */
static bool http_is_tarn(unsigned port)
{
    char ask[128];
    struct sockaddr_in a = loopback(port);
    TARN_AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval limit = {.tv_sec = PROBE_S};
    char got[1024];
    size_t n = 0, len;
    ssize_t more;

    len = (size_t)snprintf(ask, sizeof(ask), "GET /version HTTP/1.0\r\nHost: 127.0.0.1:%u\r\n\r\n",
                           port); /* fits */

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit,
                     sizeof(limit)); /* connect tells, here too */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ||
        send(fd, ask, len, MSG_NOSIGNAL) != (ssize_t)len)
        return false;
    while (n < sizeof(got) - 1 && (more = recv(fd, got + n, sizeof(got) - 1 - n, 0)) > 0)
        n += (size_t)more;
    got[n] = 0;
    return strstr(got, "{\"version\":") != NULL;
}

/* Whether the control port there is tarn's: it speaks our frames, whoever may use it. */
static bool control_is_tarn(struct cli *c, unsigned port)
{
    struct cli probe = {.remote = c->remote};
    char addr[32];
    int rc;

    (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", port); /* fits */
    probe.remote.master = addr;
    probe.remote.token_file = "";
    probe.remote.timeout = PROBE_S * 1000000000ull;
    rc = cli_connect(&probe);
    cli_disconnect(&probe);
    return rc == 0 || tarn_err_exit(rc) == TARN_EXIT_DENIED || rc == -TARN_E_FRAME_VERSION;
}

static void doctor_port(struct doctor *d, unsigned port, bool is_free, bool ours)
{
    if (is_free)
        doctor_add(d, "port", DOCTOR_OK, "", "%u is free", port);
    else if (ours)
        doctor_add(d, "port", DOCTOR_OK, "", "%u is held by a tarn", port);
    else
        doctor_add(d, "port", DOCTOR_WARN,
                   "end that program, or name a port by --listen and --http-listen",
                   "%u is held by another program: the next free one is taken", port);
}

static void doctor_ports(struct cli *c, struct doctor *d)
{
    bool is_free = port_is_free(DOCTOR_PORT);

    doctor_port(d, DOCTOR_PORT, is_free, !is_free && control_is_tarn(c, DOCTOR_PORT));
    is_free = port_is_free(DOCTOR_HTTP_PORT);
    doctor_port(d, DOCTOR_HTTP_PORT, is_free, !is_free && http_is_tarn(DOCTOR_HTTP_PORT));
}

/* ---- the report ---------------------------------------------------------------------------------
 */

static void doctor_print(struct cli *c, const struct doctor *d)
{
    static const char *const states[] = {"ok", "warn", "fail"};
    json_t *list = c->common.json ? json_array() : NULL;

    for (size_t i = 0; i < d->n; i++) {
        const struct doctor_finding *f = &d->findings[i];

        if (list) {
            (void)json_array_append_new(
                list, json_pack("{s:s, s:s, s:o, s:o}", "check", f->check, "state",
                                states[f->state], "text", cli_json_text(f->text), "mend",
                                f->mend[0] ? cli_json_text(f->mend) : json_null()));
            continue;
        }
        (void)printf("%-4s  %-12s ", states[f->state], f->check); /* main() checks the stream */
        cli_put_name(stdout, f->text, strlen(f->text));
        (void)printf("%s%s\n", f->mend[0] ? "\n                    mend: " : "", f->mend);
    }
    if (list)
        cli_json(list);
}

static int doctor_run(struct cli *c)
{
    struct doctor *d = tarn_xnew(struct doctor);
    struct tarn_str dir = {0};
    size_t failed = 0;

    doctor_fuse(d);
    doctor_passthrough(d);
    doctor_io_uring(d);
    doctor_limits(d);
    doctor_clock(d);
    if (cache_dir_default("", &dir, &c->err) == 0) { /* each URI has its own below one directory */
        dir.p[strrchr(dir.p, '/') - dir.p] = 0;
        doctor_room(d, dir.p);
    } else {
        doctor_add(d, "cache-room", DOCTOR_WARN, "give each tarn local a --cache-dir", "%s",
                   c->err.text);
        c->err.text[0] = 0; /* it is in the finding now */
    }
    tarn_str_fini(&dir);
    doctor_ports(c, d);
    doctor_server(c, d);
    doctor_print(c, d);
    for (size_t i = 0; i < d->n; i++)
        failed += d->findings[i].state == DOCTOR_FAIL;
    free(d);
    if (failed > 0)
        c->exit_code = TARN_EXIT_FAIL; /* the lines say it all */
    return 0;
}

static const struct tarn_conf_table *const doctor_tables[] = {&cli_remote_table, &cli_common_table,
                                                              NULL};
static const struct tarn_flags_spec doctor_spec = {
    .command = "tarn doctor",
    .args = "",
    .summary = "Check this host, and the server if one runs.",
    .text = "Each line is ok, warn (it works, but something is slower or missing) or fail, with "
            "what mends\n"
            "it. Exit code 1 when something failed.",
    .tables = doctor_tables};
const struct cli_command cmd_doctor_command = {
    .name = "doctor", .spec = &doctor_spec, .run = doctor_run};
