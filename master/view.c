/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sessions and workers are told of the cluster: the topology and the attachments, as far as
 * they have not got them yet.
 */
#include "master/master_priv.h"

void mcluster_view(struct tarn_master *m, uint64_t topology, uint64_t attachments,
                   struct mcluster_view *ret)
{
    (void)m;
    (void)topology;
    (void)attachments;
    *ret = (struct mcluster_view){0};
}

void mcluster_view_fini(struct mcluster_view *v)
{
    *v = (struct mcluster_view){0};
}
