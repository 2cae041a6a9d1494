/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/members_priv.h — the workers of a cluster, shared by members.c (beats, liveness),
 * members_register.c, members_admin.c (drain, remove, status) and members_topology.c (what is
 * published, the past). Owner: the master's loop.
 *
 * What is journalled (`rec`, `past`) is a copy of the committed state, taken when the entry has
 * committed. One change of a worker is under way at a time (`pending`); who comes meanwhile is told
 * BUSY and comes again. All times are the loop's: no wall clock has a say in who is alive.
 */
#pragma once

#include "master/master_priv.h"

#define MEMBER_TIERS_MAX     64u /* of one worker */
#define MEMBER_READS_MAX     16u
#define MEMBERS_LEASE_NS     (10 * TARN_NS_PER_S)
#define MEMBERS_LOST_NS      (600 * TARN_NS_PER_S)
#define MEMBERS_GONE_NS      TARN_NS_PER_S /* without a connection: it may come back by itself */
#define MEMBERS_BEATS        3u            /* per lease */
#define MEMBERS_BEAT_MAX     (16u << 10)   /* bytes of a beat that is kept */
#define MEMBERS_REPORTED_NS  (24 * 3600 * TARN_NS_PER_S) /* removed ones are shown for so long */
#define MEMBERS_PUBLISH_NS   (200 * 1000ull) /* between two topologies, times the workers */
#define MEMBERS_CAP_LIFE_NS  (3600 * TARN_NS_PER_S)
#define MEMBERS_CAP_RENEW_NS (600 * TARN_NS_PER_S)

/* One worker. */
struct mmember {
    struct tarn_list node;        /* in mmembers.all, by id */
    Tarn__Core__Worker *rec;      /* as committed */
    bool pending;                 /* a change of rec is under way */
    bool alive;                   /* heard of lately */
    struct tarn_rpc_session *rpc; /* its connection; NULL: gone, or not seen since our start */
    uint64_t incarnation;         /* of its process; 0: not seen since our start */
    uint64_t heard_ns;            /* the last time */
    uint64_t gone_ns;             /* when the connection went */
    uint64_t retry_ns;            /* a change that failed is not tried before */
    uint64_t state_version; /* topology that first had its state; UINT64_MAX: not published yet */
    uint64_t settled;       /* topology for which it has nothing left to hand over */
    uint64_t told;          /* topology last sent to it */
    Tarn__Wire__WorkerBeat *beat; /* the last, or what it registered with; NULL: none */
};

/* A set of owners that was. */
struct mowners {
    uint64_t index;   /* the youngest journalled set was that old: the order among both */
    uint64_t version; /* topology that first has it as past */
    size_t n;
    uint64_t *ids; /* ascending; NULL while empty */
    uint32_t *weights;
};

struct mmembers {
    struct tarn_master *master;
    uint64_t lease_ns, lost_ns;
    struct tarn_list all; /* struct mmember */
    size_t count;
    struct tarn_list waiting;    /* struct mregister: answered with the next topology */
    struct tarn_list changes;    /* struct mchange: under way in the journal */
    Tarn__Core__Placement *past; /* as committed */
    uint64_t last_index;         /* of the youngest set that was ever in `past` */
    struct mowners soft[TARN_PLACE_PAST_MAX]; /* sets of those that were alive; oldest first */
    unsigned soft_n;
    struct mowners owners;    /* live, as published */
    struct mowners effective; /* live and alive, the same */
    uint64_t grace_ns;        /* until then nobody is missed: we have just started; 0: over */
    uint64_t version;         /* of `topology` */
    /* Topology that changed one of these last: who settled at an earlier one did so for others. */
    uint64_t past_version;
    bool sets_changed;              /* the next one will */
    bool dirty;                     /* something is to be published */
    bool dropping;                  /* the journal forgets the past */
    bool past_stale;                /* `past` could not be read after the last entry */
    Tarn__Wire__Topology *topology; /* as published */
    uint64_t published_ns, started_ns;
    struct tarn_timer publish_timer, tick_timer, cap_timer;
    uint64_t tick_due_ns; /* of tick_timer */
    bool resumed;         /* the jobs know that there are workers */
};

/* members.c */
struct mmember *mmember_by_id(struct mmembers *s, uint64_t id);
/* The change `rec` of a worker (id 0: a new one) has ended: `w` NULL when there is none. */
typedef void mmember_fn(struct tarn_master *m, int rc, struct mmember *w, void *arg);
/* Proposes; fn once, never inside. `rec` is only read. -TARN_E_TOO_BIG: fn is not called. */
int mmember_propose(struct mmembers *s, struct mmember *w, const Tarn__Core__Worker *rec,
                    mmember_fn *fn, void *arg);
/* A new one with this uuid is on its way into the journal. */
bool mmember_joining(const struct mmembers *s, const char *uuid);
/* A worker is on its way into the journal with this address. */
bool mmember_moving(const struct mmembers *s, const char *addr);
void mmembers_arm(struct mmembers *s); /* somebody may be missed earlier than the timer is due */
struct mmember *mmember_by_uuid(struct mmembers *s, const char *uuid);
/* We have just started and it has not come yet. */
bool mmember_awaited(const struct mmembers *s, const struct mmember *w);
/* It is there, over that connection. */
void mmember_heard(struct mmembers *s, struct mmember *w, struct tarn_rpc_session *rpc);
/* Of its process, as far as we or the journal know; 0: not known. */
static inline uint64_t mmember_incarnation(const struct mmember *w)
{
    return w->incarnation ? w->incarnation : w->rec->incarnation;
}
/* What it is when it comes back. */
uint32_t mmember_state_back(const Tarn__Core__Worker *rec);
/* NULL: larger than what is kept. */
Tarn__Wire__WorkerBeat *mmember_beat_copy(const Tarn__Wire__WorkerBeat *b);
static inline uint64_t mmembers_now(const struct mmembers *s)
{
    return tarn_loop_now_ns(s->master->args.loop);
}

/* members_register.c */
void mregister_call(void *ctx, struct tarn_rpc_call *call);
/* Answers the registrations whose topology is out, or refuses them. */
void mmembers_answer_all(struct mmembers *s, int rc);

/* members_topology.c */
void mtopology_start(struct mmembers *s);
void mtopology_stop(struct mmembers *s);
void mtopology_fini(struct mmembers *s);
void mtopology_dirty(struct mmembers *s);    /* publishes, soon */
int mtopology_load_past(struct mmembers *s); /* the journal's part of the past, as committed */
void mtopology_settle(struct mmembers *s);   /* forgets the past, if nobody needs it any more */
bool mtopology_has_past(const struct mmembers *s);
/* A peer has a younger topology than we have ever made: ours must be younger. */
void mtopology_seen(struct mmembers *s, uint64_t version);

/* members_admin.c */
bool mmember_drained(const struct mmember *w);
void madmin_drain(void *ctx, struct tarn_rpc_call *call);
void madmin_remove(void *ctx, struct tarn_rpc_call *call);
