/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sessions and workers are told of the cluster: the topology, and the attachments (mounts get
 * those whose stores they may read by themselves). Pushed when it changes; whoever misses a push
 * gets it with its next renewal or beat, which says which versions it has.
 */
#include "master/master_priv.h"

#include <string.h>

void mcluster_view(struct tarn_master *m, uint64_t topology, uint64_t attachments,
                   struct mcluster_view *ret)
{
    const Tarn__Wire__Topology *t = mmembers_topology(m);

    *ret = (struct mcluster_view){0};
    if (t && topology != UINT64_MAX && t->version != topology)
        memcpy(&ret->topology, &t, sizeof(t)); /* only encoded, never changed */
    if (attachments == UINT64_MAX)
        return;
    mattach_list(m, true, &ret->list);
    if (ret->list.msg.version != attachments)
        ret->attachments = &ret->list.msg;
}

void mcluster_view_fini(struct mcluster_view *v)
{
    mattach_list_fini(&v->list);
    v->attachments = NULL;
}

static void cluster_topology(struct tarn_master *m)
{
    const Tarn__Wire__Topology *t = mmembers_topology(m);

    if (t)
        msession_notify_all(m, TARN_RPC_topology, &t->base, false);
}

static void cluster_attachments(struct tarn_master *m)
{
    struct mattach_list list;

    mmembers_push_attachments(m);
    mattach_list(m, true, &list);
    msession_notify_all(m, TARN_RPC_attachments, &list.msg.base, true);
    mattach_list_fini(&list);
}

void mcluster_start(struct tarn_master *m)
{
    m->on_topology = cluster_topology;
    m->on_attachments = cluster_attachments;
}
