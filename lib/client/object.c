/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose bytes were given out. A store may know one version by several ETags; then the bytes of a
 * cid are told apart by the tag of the one that they came under. The first answer decides; another
 * tag is another object in the same place: its bytes are not given out, and the master is told, so
 * that it asks the store.
 *
 * A kernel keeps pages for longer than a file is open, so what decides is kept beside them, too.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/client/client_priv.h"

#define REPORTS_MAX 16u /* under way: the next reader reports again */

struct tarn_object {
    _Atomic uint32_t refs;
    _Atomic bool mixed;
    /* The client's loop: */
    bool have_tag;
    uint64_t tag;
};

/* A report to the master. Owner: the loop. */
struct object_report {
    struct tarn_rpc_req rpc;
    struct tarn_list node; /* in client->reports */
    struct tarn_client *client;
    uint64_t ino, version;
};

struct tarn_object *tarn_object_new(void)
{
    struct tarn_object *o = tarn_xnew(struct tarn_object);

    atomic_init(&o->refs, 1);
    return o;
}

struct tarn_object *tarn_object_ref(struct tarn_object *o)
{
    atomic_fetch_add(&o->refs, 1);
    return o;
}

void tarn_object_unref(struct tarn_object **po)
{
    struct tarn_object *o = *po;

    *po = NULL;
    TARN_ASSERT(!o || atomic_load(&o->refs) > 0);
    if (o && atomic_fetch_sub(&o->refs, 1) == 1)
        free(o);
}

bool tarn_object_mixed(const struct tarn_object *o)
{
    return atomic_load(&o->mixed);
}

static void object_reported(struct tarn_rpc_req *req, int rc)
{
    struct object_report *r = req->arg;

    if (rc < 0 && !r->client->stopping)
        tarn_warn_limited("client", "the master did not take a report of a changed object: %s",
                          tarn_strerror(rc));
    tarn_list_del(&r->node);
    r->client->report_count--;
    tarn_rpc_req_fini(req);
    free(r);
}

static bool report_known(const struct tarn_client *c, const struct tarn_attr *attr)
{
    TARN_LIST_FOREACH(n, &c->reports)
    {
        const struct object_report *r = TARN_LIST_ENTRY(n, struct object_report, node);

        if (r->ino == attr->ino.v && r->version == attr->version)
            return true;
    }
    return false;
}

static void object_report(struct tarn_client *c, const struct tarn_attr *attr)
{
    Tarn__Wire__ChangedRequest msg = TARN__WIRE__CHANGED_REQUEST__INIT;
    struct object_report *r;

    if (c->stopping || c->report_count >= REPORTS_MAX || report_known(c, attr))
        return;
    r = tarn_xnew(struct object_report);
    r->client = c;
    r->ino = msg.ino = attr->ino.v;
    r->version = msg.version = attr->version;
    msg.reason = TARN_E_UFS_CHANGED;
    tarn_list_push(&c->reports, &r->node);
    c->report_count++;
    r->rpc = (struct tarn_rpc_req){
        .method = TARN_RPC_report_changed, .msg = &msg.base, .cb = object_reported, .arg = r};
    tarn_rpc_start(c->rpc, &r->rpc);
}

int client_object_take(struct tarn_handle *h, uint64_t tag)
{
    struct tarn_object *o = h->object;

    if (!o)
        o = h->object = tarn_object_new();
    if (o->have_tag && o->tag != tag) {
        atomic_store(&o->mixed, true);
        object_report(h->client, &h->attr);
        return -TARN_E_UFS_CHANGED;
    }
    o->have_tag = true;
    o->tag = tag;
    return 0;
}
