/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sessions are told of the cluster: the topology, and the attachments whose stores they may
 * read by themselves. Pushed when it changes; whoever misses a push gets it with its next renewal,
 * since that says which versions it has.
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
    (void)attachments;
}

void mcluster_view_fini(struct mcluster_view *v)
{
    *v = (struct mcluster_view){0};
}

static void cluster_topology(struct tarn_master *m)
{
    const Tarn__Wire__Topology *t = mmembers_topology(m);

    if (t)
        msession_notify_all(m, TARN_RPC_topology, &t->base, false);
}

void mcluster_start(struct tarn_master *m)
{
    m->on_topology = cluster_topology;
}
