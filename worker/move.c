/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing over: after each new topology the tier is walked twice, in slices of a turn of the loop.
 * The first walk counts what others own now, the second one offers it to them, group by group, at
 * most MOVE_MAX at a time:
 *
 *     item_next -> "do you want it" (take without a payload) -> had: the next owner
 *               -> wanted: read back and compare -> (tokens of the bandwidth) -> take -> kept
 *               -> all owners have it: ours goes, or stays as a copy, as far as `copies` says
 *               -> somebody has no room, does not answer, or has not heard yet that it is an
 *                  owner, or ours cannot be read now: left, tried again later
 *
 * A worker that drains keeps a group until its owner has it, and then drops it. What is not whole
 * (a bad granule was found) is not worth handing over: who owns it fetches it.
 *
 * How many workers are to hold a file is kept with it in the tier, as a locator told. Where nobody
 * did, its owner is offered it, but who would be its first replica keeps it.
 *
 * What is given up stays for as long as a worker may live with an older topology: one that takes
 * itself for the owner still asks us for it.
 *
 * A fetch that began before the topology may end behind the walk, and a peer with an older one may
 * still have us fetch what is another's: such strays are waited for, and walked for once more.
 *
 * Nothing else is remembered over a restart: the walk of the next topology does it all again, and
 * costs a question per group.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"
#include "worker/worker_priv.h"

#define MOVE_MAX       2u   /* groups under way */
#define MOVE_BURSTS    10u  /* what may be saved up is a second's worth, divided by this */
#define MOVE_SLICE     512u /* files and groups looked at in one turn */
#define MOVE_UNFIT_MAX 64u  /* workers that are remembered */
#define MOVE_REST_NS   (5 * TARN_NS_PER_S)
#define MOVE_SOON_NS   (200 * TARN_NS_PER_MS)
#define MOVE_TAKE_NS   (20 * TARN_NS_PER_S)
#define MOVE_LINGER_NS (10 * TARN_NS_PER_S)

enum move_state {
#define MOVE_STATE(name, next) MOVE_##name,
#include "worker/move_states.def"
#undef MOVE_STATE
};
static const struct tarn_sm_state move_states[] = {
#define MOVE_STATE(name, next) {#name, next},
#include "worker/move_states.def"
#undef MOVE_STATE
};

/* A group that is being offered. */
struct item {
    struct tarn_move *move;
    bool used;     /* it is one */
    bool parked;   /* waits for tokens */
    bool asking;   /* req is under way */
    bool failed;   /* an owner did not take it */
    uint64_t full; /* one that had no room for it */
    uint64_t walk; /* of which it is */
    struct tarn_tier_file *file;
    uint32_t group, len_bytes;
    uint64_t ids[TARN_PLACE_PICK_MAX]; /* owners */
    unsigned n, at;
    struct tarn_buf *buf; /* its bytes, once they are wanted */
    uint64_t tag;         /* of them; before: of the file */
    uint32_t level;       /* the same */
    struct tarn_tier_op op;
    struct tarn_rpc_req req;
};

/* A group that goes. */
struct parting {
    struct tarn_list node;
    tarn_cid_t cid;
    uint32_t group;
    uint64_t due_ns;
};

struct tarn_move {
    struct tarn_worker *worker;
    unsigned state;   /* enum move_state */
    uint64_t version; /* of the topology */
    uint64_t walk;    /* number of the walk: results of earlier ones do not count */
    uint64_t left, failed, moved;
    uint64_t counted;                   /* so far, of what will be `left` */
    bool drains;                        /* in the topology at hand */
    bool handed_over;                   /* draining, and settled with a cache that could be read */
    uint64_t full_bytes, full_id;       /* of this walk: what owners had no room for */
    uint64_t refused_bytes, refused_by; /* of the last one, at its end */
    /* Where the walk is. */
    unsigned part;
    tarn_cid_t *cids;
    size_t cid_count, cid_at;
    struct tarn_tier_file *file;
    uint32_t group;
    bool end;
    /* Bandwidth. */
    uint64_t rate;
    int64_t tokens; /* bytes that may be sent; negative: sent ahead */
    uint64_t tokens_ns;
    struct item items[MOVE_MAX];
    unsigned running;
    struct {
        uint64_t id, until_ns;
        bool full;
    } unfit[MOVE_UNFIT_MAX]; /* sent bytes that they could not keep: not asked for a while */
    unsigned unfit_at;
    struct tarn_list partings; /* the oldest first */
    uint64_t linger_ns;        /* after that all that live have the topology */
    struct tarn_timer rest, tokens_timer, parting_timer;
    struct tarn_task task;
    bool posted;
    bool early; /* an owner did not know yet that it is one */
    bool stray; /* something came behind the walk */
    void (*settled)(void *arg);
    void *settled_arg;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

static void move_pump(struct tarn_move *m);
static void item_next(struct item *it);

static void move_run(struct tarn_task *t)
{
    struct tarn_move *m = TARN_CONTAINER(t, struct tarn_move, task);
    void (*stopped)(void *) = m->stopped;

    m->posted = false;
    if (m->state != MOVE_STOPPED) {
        move_pump(m);
    } else if (m->running == 0 && stopped) {
        m->stopped = NULL;
        stopped(m->stopped_arg);
    }
}

static void move_post(struct tarn_move *m)
{
    if (m->posted)
        return;
    m->posted = true;
    tarn_loop_post(m->worker->args.loop, &m->task, move_run);
}

static struct tarn_place *move_place(const struct tarn_move *m)
{
    return m->worker->peers ? tarn_peers_place(m->worker->peers) : NULL;
}

/* ---- the walk ---------------------------------------------------------------------------------
 */

static void cursor_reset(struct tarn_move *m)
{
    free(m->cids);
    m->cids = NULL;
    m->cid_count = m->cid_at = 0;
    m->part = 0;
    m->end = false;
    tarn_tier_file_put(&m->file);
}

/* The next group; false: at the end (m->end), or the slice is used up. */
static bool cursor_next(struct tarn_move *m, unsigned *slice, uint32_t *ret_group, bool *ret_whole)
{
    struct tarn_tier *tier = m->worker->args.tier;

    for (; *slice > 0; (*slice)--) {
        if (m->file && tarn_tier_next_group(m->file, &m->group, ret_whole)) {
            *ret_group = m->group++;
            return true;
        }
        tarn_tier_file_put(&m->file);
        if (m->cid_at < m->cid_count) {
            m->file = tarn_tier_file_find(tier, &m->cids[m->cid_at++]);
            m->group = 0;
            if (m->file && tarn_tier_file_cached(m->file) == 0)
                tarn_tier_file_put(&m->file); /* the tier is offline */
            continue;
        }
        free(m->cids);
        m->cids = NULL;
        m->cid_count = m->cid_at = 0;
        if (m->part == TARN_TIER_LISTS) {
            m->end = true;
            return false;
        }
        m->cid_count = tarn_tier_list(tier, m->part++, &m->cids);
    }
    return false;
}

static uint32_t move_segment(uint32_t group)
{
    return tarn_segment_of((uint64_t)group * TARN_UNIT_BYTES);
}

static bool move_owns(const struct tarn_move *m, const struct tarn_tier_file *f, uint32_t group,
                      uint32_t replicas)
{
    return tarn_place_owns(move_place(m), tarn_tier_file_cid(f), move_segment(group), replicas,
                           m->worker->args.id);
}

static bool move_draining(const struct tarn_move *m)
{
    const struct tarn_place_worker *self = tarn_place_find(move_place(m), m->worker->args.id);

    return self && self->state != TARN_WORKER_LIVE;
}

static void move_trace(const struct tarn_move *m, const tarn_cid_t *cid, uint32_t group,
                       const char *what)
{
    char text[TARN_CID_HEX];

    tarn_debug("move", "%s: cid=%s group=%u topology=%llu", what, tarn_cid_text(cid, text), group,
               (unsigned long long)m->version);
}

static void partings_due(struct tarn_timer *t, void *arg)
{
    struct tarn_move *m = arg;
    struct tarn_tier *tier = m->worker->args.tier;
    uint64_t now = tarn_loop_now_ns(m->worker->args.loop);
    unsigned slice = MOVE_SLICE;

    while (!tarn_list_empty(&m->partings)) {
        struct parting *p = TARN_LIST_ENTRY(m->partings.next, struct parting, node);
        struct tarn_tier_file *f;

        if (p->due_ns > now || slice-- == 0) {
            tarn_timer_start(m->worker->args.loop, t, p->due_ns > now ? p->due_ns - now : 0,
                             partings_due, m);
            return;
        }
        f = tarn_tier_file_find(tier, &p->cid);
        move_trace(m, &p->cid, p->group, "dropped");
        if (f && !move_owns(m, f, p->group, tarn_tier_file_replicas(f)))
            (void)tarn_tier_drop_group(tier, f, p->group); /* in use: when room is needed */
        tarn_tier_file_put(&f);
        tarn_list_del(&p->node);
        free(p);
    }
}

static void move_part(struct tarn_move *m, struct tarn_tier_file *f, uint32_t group)
{
    struct parting *p = tarn_xnew(struct parting);

    move_trace(m, tarn_tier_file_cid(f), group, "handed over");
    p->cid = *tarn_tier_file_cid(f);
    p->group = group;
    p->due_ns = tarn_loop_now_ns(m->worker->args.loop) + m->linger_ns;
    if (tarn_list_empty(&m->partings))
        tarn_timer_start(m->worker->args.loop, &m->parting_timer, m->linger_ns, partings_due, m);
    tarn_list_push(&m->partings, &p->node);
}

static void partings_forget(struct tarn_move *m)
{
    tarn_timer_stop(&m->parting_timer);
    while (!tarn_list_empty(&m->partings)) {
        struct parting *p = TARN_LIST_ENTRY(m->partings.next, struct parting, node);

        tarn_list_del(&p->node);
        free(p);
    }
}

/* Those who own it have it. */
static void move_let_go(struct tarn_move *m, struct tarn_tier_file *f, uint32_t group)
{
    struct tarn_worker *w = m->worker;
    uint32_t replicas = tarn_tier_file_replicas(f);

    if (move_owns(m, f, group, replicas)) /* meanwhile */
        return;
    if (move_draining(m) || (w->copies == 0 && (replicas > 0 || !move_owns(m, f, group, 2))))
        move_part(m, f, group);
    else
        tarn_tier_group_copy(w->args.tier, f, group, true);
}

/* ---- one group --------------------------------------------------------------------------------
 */

static void item_end(struct item *it)
{
    struct tarn_move *m = it->move;

    if (it->walk == m->walk && it->failed) {
        m->failed += it->len_bytes;
        m->full_bytes += it->full ? it->len_bytes : 0;
        m->full_id = it->full ? it->full : m->full_id;
    } else if (it->walk == m->walk) {
        m->left -= TARN_MIN(m->left, (uint64_t)it->len_bytes);
    }
    if (!it->failed && m->state != MOVE_STOPPED && it->walk == m->walk)
        move_let_go(m, it->file, it->group);
    tarn_buf_unref(&it->buf);
    tarn_tier_file_put(&it->file);
    it->used = false;
    m->running--;
    move_post(m);
}

static void item_failed(struct item *it)
{
    it->failed = true;
    it->at++;
    item_next(it);
}

static bool move_unfit(const struct tarn_move *m, uint64_t id, bool *ret_full)
{
    uint64_t now = tarn_loop_now_ns(m->worker->args.loop);

    for (unsigned i = 0; i < MOVE_UNFIT_MAX; i++)
        if (m->unfit[i].id == id && m->unfit[i].until_ns > now) {
            *ret_full = m->unfit[i].full;
            return true;
        }
    return false;
}

static void move_note_unfit(struct tarn_move *m, uint64_t id, bool full)
{
    unsigned i = m->unfit_at++ % MOVE_UNFIT_MAX;

    m->unfit[i].id = id;
    m->unfit[i].until_ns = tarn_loop_now_ns(m->worker->args.loop) + MOVE_REST_NS;
    m->unfit[i].full = full;
}

/* Now, while the bytes are there: by the time they are sent the file may be gone, or another. */
static void item_note(struct item *it)
{
    it->tag = 0;
    (void)tarn_tier_file_tag(it->file, &it->tag); /* false: there is nothing to hand over */
    it->level = tarn_tier_file_level(it->file);
}

static void item_read(struct tarn_tier_op *op, int rc)
{
    struct item *it = op->arg;
    uint64_t all = ~0ull >> (TARN_GROUP_GRANULES - tarn_div_up(it->len_bytes, TARN_GRANULE_BYTES));

    if (it->move->state == MOVE_STOPPED || rc < 0 || op->granules != all) {
        it->n = it->at; /* evicted or damaged: there is nothing to hand over */
        it->failed |= it->move->state == MOVE_STOPPED || (rc < 0 && rc != -TARN_E_NOT_CACHED);
        item_end(it);
        return;
    }
    it->buf->len = it->len_bytes;
    item_note(it);
    item_next(it);
}

static void item_load(struct item *it)
{
    uint64_t all = ~0ull >> (TARN_GROUP_GRANULES - tarn_div_up(it->len_bytes, TARN_GRANULE_BYTES));

    it->buf = tarn_buf_new(it->len_bytes);
    if (!it->buf) {
        item_failed(it);
        return;
    }
    it->op = (struct tarn_tier_op){.file = it->file,
                                   .group = it->group,
                                   .buf = it->buf,
                                   .granules = all,
                                   .cb = item_read,
                                   .arg = it};
    tarn_tier_read(it->move->worker->args.tier, &it->op);
}

static void item_answered(struct tarn_rpc_req *req, int rc)
{
    struct item *it = req->arg;
    struct tarn_move *m = it->move;
    const Tarn__Wire__TakeResponse *resp = (const Tarn__Wire__TakeResponse *)req->resp;
    bool kept = rc == 0 && resp && resp->kept, asked = it->buf == NULL;
    bool fine = rc == 0 && resp && (resp->kept || resp->had || resp->useless);
    bool full = rc == 0 && !fine && !asked;

    it->asking = false;
    tarn_peers_note(m->worker->peers, it->ids[it->at], rc);
    tarn_rpc_req_fini(req);
    if (kept)
        m->moved += it->len_bytes;
    if (rc == 0 && !fine && asked) {
        item_load(it);
        return;
    }
    if (!fine && !asked && rc != -TARN_E_STALE && rc != -TARN_E_CANCELLED)
        move_note_unfit(m, it->ids[it->at], full);
    if (full)
        it->full = it->ids[it->at];
    m->early |= rc == -TARN_E_STALE;
    if (rc < 0 && rc != -TARN_E_CANCELLED && rc != -TARN_E_STALE)
        tarn_warn_limited("move", "worker %llu did not take a group: %s",
                          (unsigned long long)it->ids[it->at], tarn_strerror(rc));
    it->failed |= !fine;
    it->at++;
    item_next(it);
}

static void item_send(struct item *it, struct tarn_rpc_client *rpc)
{
    Tarn__Wire__TakeRequest msg = TARN__WIRE__TAKE_REQUEST__INIT;
    const tarn_cid_t *cid = tarn_tier_file_cid(it->file);

    msg.cid = tarn_wire_bytes(cid->b, sizeof(cid->b));
    msg.length = tarn_tier_file_length(it->file);
    msg.group = it->group;
    msg.level = it->level;
    msg.tag = it->tag;
    msg.replicas = tarn_tier_file_replicas(it->file);
    if (it->buf) {
        msg.granules = it->op.granules;
        msg.n_sums = tarn_div_up(it->len_bytes, TARN_GRANULE_BYTES);
        msg.sums = it->op.sums;
        it->move->tokens -= it->len_bytes;
    }
    it->req = (struct tarn_rpc_req){.method = TARN_RPC_take,
                                    .msg = &msg.base,
                                    .payload = it->buf,
                                    .no_retry = true,
                                    .timeout_ns = MOVE_TAKE_NS,
                                    .cb = item_answered,
                                    .arg = it};
    it->asking = true;
    tarn_rpc_start(rpc, &it->req);
}

static void tokens_due(struct tarn_timer *t, void *arg)
{
    struct tarn_move *m = arg;

    (void)t; /* m->tokens_timer */
    for (unsigned i = 0; i < MOVE_MAX; i++)
        if (m->items[i].parked) {
            m->items[i].parked = false;
            item_next(&m->items[i]);
        }
}

/* Whether bytes may be sent now; else the timer tells when. */
static bool tokens_ready(struct tarn_move *m)
{
    uint64_t now = tarn_loop_now_ns(m->worker->args.loop);
    uint64_t ns = TARN_MIN(now - m->tokens_ns, 10 * TARN_NS_PER_S);

    if (m->rate == 0) {
        m->tokens = 0;
        m->tokens_ns = now;
        return true;
    }
    m->tokens_ns = now;
    m->tokens += (int64_t)((double)m->rate * (double)ns / (double)TARN_NS_PER_S);
    m->tokens = TARN_MIN(m->tokens, (int64_t)TARN_MIN(m->rate / MOVE_BURSTS, (uint64_t)INT64_MAX));
    if (m->tokens >= 0)
        return true;
    ns = (uint64_t)((double)-m->tokens * (double)TARN_NS_PER_S / (double)m->rate);
    tarn_timer_start(m->worker->args.loop, &m->tokens_timer,
                     TARN_MIN(ns + TARN_NS_PER_MS, TARN_NS_PER_S), tokens_due, m);
    return false;
}

static void item_next(struct item *it)
{
    struct tarn_move *m = it->move;
    struct tarn_peers *peers = m->worker->peers;

    for (; it->at < it->n; it->at++) {
        uint64_t id = it->ids[it->at];
        struct tarn_rpc_client *rpc = NULL;
        bool full = false;

        if (move_unfit(m, id, &full))
            it->full = full ? id : it->full;
        else if (m->state != MOVE_STOPPED && it->walk == m->walk && tarn_peers_usable(peers, id))
            rpc = tarn_peers_get(peers, id);
        if (rpc && it->buf && !tokens_ready(m)) {
            it->parked = true;
            return;
        }
        if (rpc) {
            item_send(it, rpc);
            return;
        }
        it->failed = true;
    }
    item_end(it);
}

/* Takes a reference. */
static void item_start(struct tarn_move *m, struct tarn_tier_file *f, uint32_t group)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX];
    struct item *it = m->items;

    while (it->used)
        it++;
    TARN_ASSERT(it < m->items + MOVE_MAX);
    *it = (struct item){.move = m,
                        .used = true,
                        .walk = m->walk,
                        .group = group,
                        .len_bytes = wgroup_len(tarn_tier_file_length(f), group)};
    it->file =
        tarn_tier_file_get(m->worker->args.tier, tarn_tier_file_cid(f), tarn_tier_file_length(f));
    it->n = tarn_place_owners(move_place(m), tarn_tier_file_cid(f), move_segment(group),
                              tarn_tier_file_replicas(f), owners);
    for (unsigned i = 0; i < it->n; i++)
        it->ids[i] = owners[i]->id;
    it->failed = it->n == 0; /* nobody owns anything */
    item_note(it);
    m->running++;
    item_next(it);
}

/* ---- the states -------------------------------------------------------------------------------
 */

static void move_begin(struct tarn_move *m)
{
    tarn_sm_move(move_states, &m->state, MOVE_COUNTING);
    tarn_timer_stop(&m->rest);
    m->walk++;
    m->counted = m->failed = m->full_bytes = 0;
    m->early = m->stray = false;
    cursor_reset(m);
    move_post(m);
}

static void move_rested(struct tarn_timer *t, void *arg)
{
    (void)t; /* m->rest */
    move_begin(arg);
}

static void move_rest(struct tarn_move *m, uint64_t ns)
{
    tarn_sm_move(move_states, &m->state, MOVE_RESTING);
    tarn_timer_start(m->worker->args.loop, &m->rest, ns, move_rested, m);
}

static void move_ended(struct tarn_move *m)
{
    struct tarn_tier_info tier;
    bool soon = m->early || m->stray || m->worker->take_bytes > 0 || wfetch_strays(m->worker);

    if (move_draining(m) && !m->handed_over) {
        tarn_tier_info(m->worker->args.tier, &tier);
        if (tier.offline) { /* nothing was handed over, and nothing can be: it is not done */
            m->left = tier.data_bytes;
            move_rest(m, MOVE_REST_NS);
            return;
        }
    }
    m->left = m->failed;
    if (m->full_bytes > 0 && m->refused_bytes == 0)
        tarn_warn("move",
                  "others have no room for what they own now, worker %llu among them: bytes=%llu",
                  (unsigned long long)m->full_id, (unsigned long long)m->full_bytes);
    m->refused_bytes = m->full_bytes;
    m->refused_by = m->full_bytes > 0 ? m->full_id : 0;
    if (m->failed == 0 && !soon) {
        tarn_sm_move(move_states, &m->state, MOVE_SETTLED);
        m->handed_over = move_draining(m);
        tarn_info("move", "nothing is left that others own: topology=%llu",
                  (unsigned long long)m->version);
        if (m->settled)
            m->settled(m->settled_arg);
        return;
    }
    move_rest(m, soon ? MOVE_SOON_NS : MOVE_REST_NS);
}

static void move_look(struct tarn_move *m, uint32_t group, bool whole)
{
    struct tarn_tier *tier = m->worker->args.tier;
    uint32_t len = wgroup_len(tarn_tier_file_length(m->file), group);

    if (move_owns(m, m->file, group, tarn_tier_file_replicas(m->file))) {
        if (m->state == MOVE_MOVING)
            tarn_tier_group_copy(tier, m->file, group, false);
    } else if (m->state == MOVE_COUNTING) {
        m->counted += len;
    } else if (whole) {
        item_start(m, m->file, group);
    } else {
        m->left -= TARN_MIN(m->left, (uint64_t)len);
        (void)tarn_tier_drop_group(tier, m->file, group); /* in use: it goes when room is needed */
    }
}

static void move_pump(struct tarn_move *m)
{
    unsigned slice = MOVE_SLICE;
    uint32_t group;
    bool whole;

    while ((m->state == MOVE_COUNTING || m->state == MOVE_MOVING) && m->running < MOVE_MAX &&
           cursor_next(m, &slice, &group, &whole))
        move_look(m, group, whole);
    if (m->state == MOVE_COUNTING && m->end) {
        cursor_reset(m);
        m->left = m->counted;
        m->handed_over = m->handed_over && m->counted == 0;
        tarn_sm_move(move_states, &m->state, MOVE_MOVING);
        move_post(m);
    } else if (m->state == MOVE_MOVING && m->end && m->running == 0) {
        cursor_reset(m);
        move_ended(m);
    } else if (slice == 0) {
        move_post(m); /* goes on in the next turn */
    }
}

struct tarn_move *tarn_move_new(struct tarn_worker *w, void (*settled)(void *arg), void *arg)
{
    struct tarn_move *m = tarn_xnew(struct tarn_move);

    m->worker = w;
    w->move = m;
    m->settled = settled;
    m->settled_arg = arg;
    m->state = MOVE_IDLE;
    m->tokens_ns = tarn_loop_now_ns(w->args.loop);
    m->linger_ns = MOVE_LINGER_NS;
    tarn_list_init(&m->partings);
    return m;
}

void tarn_move_topology(struct tarn_move *m)
{
    struct tarn_place *place = move_place(m);
    struct tarn_tier_info tier;

    if (m->state == MOVE_STOPPED || !place || !m->worker->args.tier ||
        tarn_place_version(place) == m->version)
        return;
    m->version = tarn_place_version(place);
    m->refused_bytes = m->refused_by = 0;
    if (move_draining(m) && !m->drains) { /* until it is counted */
        tarn_tier_info(m->worker->args.tier, &tier);
        m->left = tier.data_bytes;
    }
    m->drains = move_draining(m);
    m->handed_over = m->handed_over && m->drains;
    partings_forget(m); /* we may be an owner again, and have what nobody else has */
    move_begin(m);
}

void tarn_move_stray(struct tarn_move *m)
{
    m->stray = true;
    m->handed_over = false;
    if (m->state == MOVE_SETTLED)
        move_begin(m);
}

void tarn_move_set_rate(struct tarn_move *m, uint64_t bytes_per_s)
{
    m->rate = bytes_per_s;
}

void tarn_move_set_linger(struct tarn_move *m, uint64_t ns)
{
    m->linger_ns = ns;
}

void tarn_move_stop(struct tarn_move *m, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(m->state != MOVE_STOPPED && done);
    tarn_sm_move(move_states, &m->state, MOVE_STOPPED);
    m->worker->move = NULL;
    m->stopped = done;
    m->stopped_arg = arg;
    cursor_reset(m);
    tarn_timer_stop(&m->rest);
    tarn_timer_stop(&m->tokens_timer);
    tarn_timer_stop(&m->parting_timer);
    for (unsigned i = 0; i < MOVE_MAX; i++) {
        struct item *it = &m->items[i];

        if (it->asking) {
            tarn_rpc_cancel(&it->req);
        } else if (it->parked) {
            it->parked = false;
            item_next(it);
        }
    }
    move_post(m);
}

void tarn_move_free(struct tarn_move **pm)
{
    struct tarn_move *m = *pm;

    *pm = NULL;
    if (!m)
        return;
    TARN_ASSERT(m->running == 0 && !m->posted);
    tarn_timer_stop(&m->rest);
    tarn_timer_stop(&m->tokens_timer);
    partings_forget(m);
    cursor_reset(m);
    free(m);
}

void tarn_move_counts(const struct tarn_move *m, struct tarn_move_counts *ret)
{
    *ret = (struct tarn_move_counts){.left_bytes = m->left,
                                     .moved_bytes = m->moved,
                                     .version = m->version,
                                     .settled = m->state == MOVE_SETTLED,
                                     .refused_bytes = m->refused_bytes,
                                     .refused_by = m->refused_by};
}
