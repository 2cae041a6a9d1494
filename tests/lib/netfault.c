/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/lib/netfault.c — makes the network of the namespace that it runs in misbehave, for
 * netns.py. It speaks to the kernel's nf_tables and nfnetlink_queue itself, so that neither a
 * package nor a configuration of the machine is needed.
 *
 *     netfault IFACE clear
 *     netfault IFACE partition [PEER]          nothing in, nothing out (with PEER: of that address)
 *     netfault IFACE reset [PEER]              each TCP packet is answered with a reset
 *     netfault IFACE loss PERCENT              of the packets in, and of those out
 *     netfault IFACE delay MS JITTER_MS LOSS   of the packets in; runs until it is ended, prints
 *                                              "on" when it has begun. Jitter reorders.
 *
 * Each call replaces what the one before set up. Only IPv4 is looked at.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TABLE     "tarn-fault"
#define QUEUE     1u
#define QUEUE_MAX 65536u

/* ---- netlink messages: a buffer that grows, attributes that nest
 * ---------------------------------------------------------- */

struct out {
    unsigned char buf[8192];
    size_t len; /* valid bytes of buf */
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *add(struct out *o, size_t len)
{
    size_t padded = NLMSG_ALIGN(len);
    if (o->len + padded > sizeof o->buf) {
        fprintf(stderr, "netfault: a message is too long\n");
        exit(1);
    }
    unsigned char *at = o->buf + o->len;
    memset(at, 0, padded);
    o->len += padded;
    return at;
}

static void put(struct out *o, uint16_t type, const void *data, size_t len)
{
    struct nlattr *a = add(o, NLA_HDRLEN + len);
    a->nla_type = type;
    a->nla_len = (uint16_t)(NLA_HDRLEN + len);
    memcpy((unsigned char *)a + NLA_HDRLEN, data, len);
}

static void put_str(struct out *o, uint16_t type, const char *s)
{
    put(o, type, s, strlen(s) + 1);
}

static void put_u32(struct out *o, uint16_t type, uint32_t v)
{
    v = htonl(v);
    put(o, type, &v, sizeof v);
}

static size_t nest(struct out *o, uint16_t type)
{
    size_t at = o->len;
    struct nlattr *a = add(o, NLA_HDRLEN);
    a->nla_type = (uint16_t)(type | NLA_F_NESTED);
    return at;
}

static void end_nest(struct out *o, size_t at)
{
    struct nlattr *a = (void *)(o->buf + at);
    a->nla_len = (uint16_t)(o->len - at);
}

static size_t begin(struct out *o, uint16_t type, uint16_t flags, uint8_t family, uint16_t res)
{
    size_t at = o->len;
    struct nlmsghdr *h = add(o, NLMSG_HDRLEN);
    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    struct nfgenmsg *g = add(o, sizeof *g);
    g->nfgen_family = family;
    g->version = NFNETLINK_V0;
    g->res_id = htons(res);
    return at;
}

static void end(struct out *o, size_t at)
{
    struct nlmsghdr *h = (void *)(o->buf + at);
    h->nlmsg_len = (uint32_t)(o->len - at);
}

static int connect_netlink(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    struct sockaddr_nl local = {.nl_family = AF_NETLINK};
    if (fd < 0 || bind(fd, (struct sockaddr *)&local, sizeof local) < 0)
        die("netlink");
    return fd;
}

static void send_all(int fd, const struct out *o)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(fd, o->buf, o->len, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
        die("netlink send");
}

static struct nlmsghdr *next_message(struct nlmsghdr *h, ssize_t *left)
{
    size_t step = NLMSG_ALIGN(h->nlmsg_len);
    *left -= (ssize_t)step;
    return (void *)((unsigned char *)h + step);
}

/* Waits for the acknowledgement of the message that asked for one; an error ends the program. */
static void expect_ack(int fd, const char *what)
{
    _Alignas(8) unsigned char buf[16384];
    for (;;) {
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n < 0)
            die("netlink receive");
        struct nlmsghdr *h = (void *)buf;
        for (; NLMSG_OK(h, n); h = next_message(h, &n)) {
            if (h->nlmsg_type != NLMSG_ERROR)
                continue;
            const struct nlmsgerr *e = NLMSG_DATA(h);
            if (e->error == 0)
                return;
            errno = -e->error;
            die(what);
        }
    }
}

/* ---- rules
 * ----------------------------------------------------------------------------------------------------
 */

static size_t expr(struct out *o, const char *name, size_t *ret_elem)
{
    *ret_elem = nest(o, NFTA_LIST_ELEM);
    put_str(o, NFTA_EXPR_NAME, name);
    return nest(o, NFTA_EXPR_DATA);
}

static void end_expr(struct out *o, size_t data, size_t elem)
{
    end_nest(o, data);
    end_nest(o, elem);
}

static void put_value(struct out *o, uint16_t type, const void *value, size_t len)
{
    size_t data = nest(o, type);
    put(o, NFTA_DATA_VALUE, value, len);
    end_nest(o, data);
}

static void match(struct out *o, uint32_t op, const void *value, size_t len)
{
    size_t elem, data = expr(o, "cmp", &elem);
    put_u32(o, NFTA_CMP_SREG, NFT_REG_1);
    put_u32(o, NFTA_CMP_OP, op);
    put_value(o, NFTA_CMP_DATA, value, len);
    end_expr(o, data, elem);
}

static void match_meta(struct out *o, uint32_t key, const void *value, size_t len)
{
    size_t elem, data = expr(o, "meta", &elem);
    put_u32(o, NFTA_META_DREG, NFT_REG_1);
    put_u32(o, NFTA_META_KEY, key);
    end_expr(o, data, elem);
    match(o, NFT_CMP_EQ, value, len);
}

/* The address of the other side in the IPv4 header. */
static void match_peer(struct out *o, bool in, const struct in_addr *peer)
{
    size_t elem, data = expr(o, "payload", &elem);
    put_u32(o, NFTA_PAYLOAD_DREG, NFT_REG_1);
    put_u32(o, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER);
    put_u32(o, NFTA_PAYLOAD_OFFSET, in ? 12 : 16);
    put_u32(o, NFTA_PAYLOAD_LEN, 4);
    end_expr(o, data, elem);
    match(o, NFT_CMP_EQ, peer, 4);
}

/* TCP, but no reset: those that are sent here have to come through. */
static void match_tcp(struct out *o)
{
    uint8_t tcp = IPPROTO_TCP, reset = 0x04, none = 0;
    match_meta(o, NFT_META_L4PROTO, &tcp, 1);
    size_t elem, data = expr(o, "payload", &elem);
    put_u32(o, NFTA_PAYLOAD_DREG, NFT_REG_1);
    put_u32(o, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
    put_u32(o, NFTA_PAYLOAD_OFFSET, 13);
    put_u32(o, NFTA_PAYLOAD_LEN, 1);
    end_expr(o, data, elem);
    data = expr(o, "bitwise", &elem);
    put_u32(o, NFTA_BITWISE_SREG, NFT_REG_1);
    put_u32(o, NFTA_BITWISE_DREG, NFT_REG_1);
    put_u32(o, NFTA_BITWISE_LEN, 1);
    put_value(o, NFTA_BITWISE_MASK, &reset, 1);
    put_value(o, NFTA_BITWISE_XOR, &none, 1);
    end_expr(o, data, elem);
    match(o, NFT_CMP_EQ, &none, 1);
}

static void match_random(struct out *o, uint32_t percent)
{
    size_t elem, data = expr(o, "numgen", &elem);
    put_u32(o, NFTA_NG_DREG, NFT_REG_1);
    put_u32(o, NFTA_NG_MODULUS, 100);
    put_u32(o, NFTA_NG_TYPE, NFT_NG_RANDOM);
    end_expr(o, data, elem);
    data = expr(o, "byteorder", &elem); /* values are compared as bytes */
    put_u32(o, NFTA_BYTEORDER_SREG, NFT_REG_1);
    put_u32(o, NFTA_BYTEORDER_DREG, NFT_REG_1);
    put_u32(o, NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON);
    put_u32(o, NFTA_BYTEORDER_LEN, 4);
    put_u32(o, NFTA_BYTEORDER_SIZE, 4);
    end_expr(o, data, elem);
    uint32_t limit = htonl(percent);
    match(o, NFT_CMP_LT, &limit, sizeof limit);
}

static void drop(struct out *o)
{
    size_t elem, data = expr(o, "immediate", &elem);
    put_u32(o, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    size_t value = nest(o, NFTA_IMMEDIATE_DATA);
    size_t verdict = nest(o, NFTA_DATA_VERDICT);
    put_u32(o, NFTA_VERDICT_CODE, NF_DROP);
    end_nest(o, verdict);
    end_nest(o, value);
    end_expr(o, data, elem);
}

static void reject(struct out *o)
{
    size_t elem, data = expr(o, "reject", &elem);
    put_u32(o, NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST);
    end_expr(o, data, elem);
}

/* xt_NFQUEUE through nf_tables: kernels have it more often than the `queue` expression. */
static void queue(struct out *o)
{
    size_t elem, data = expr(o, "target", &elem);
    struct xt_NFQ_info_v3 info = {.queuenum = QUEUE, .queues_total = 1, .flags = NFQ_FLAG_BYPASS};
    unsigned char padded[XT_ALIGN(sizeof info)] = {0};
    memcpy(padded, &info, sizeof info);
    put_str(o, NFTA_TARGET_NAME, "NFQUEUE");
    put_u32(o, NFTA_TARGET_REV, 3);
    put(o, NFTA_TARGET_INFO, padded, sizeof padded);
    end_expr(o, data, elem);
}

struct fault {
    char iface[IFNAMSIZ];
    enum { CLEAR, PARTITION, RESET, LOSS, DELAY } kind;
    uint32_t percent;    /* of LOSS */
    bool one_peer;       /* only packets of `peer` */
    struct in_addr peer; /* its address */
};

static void put_rule(struct out *o, const struct fault *f, bool in)
{
    size_t msg = begin(o, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND,
                       NFPROTO_IPV4, 0);
    put_str(o, NFTA_RULE_TABLE, TABLE);
    put_str(o, NFTA_RULE_CHAIN, in ? "in" : "out");
    size_t list = nest(o, NFTA_RULE_EXPRESSIONS);
    match_meta(o, in ? NFT_META_IIFNAME : NFT_META_OIFNAME, f->iface, IFNAMSIZ);
    if (f->one_peer)
        match_peer(o, in, &f->peer);
    if (f->kind == RESET) {
        match_tcp(o);
        reject(o);
    } else if (f->kind == DELAY) {
        queue(o);
    } else {
        if (f->kind == LOSS)
            match_random(o, f->percent);
        drop(o);
    }
    end_nest(o, list);
    end(o, msg);
}

static void put_chain(struct out *o, bool in)
{
    size_t msg =
        begin(o, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFPROTO_IPV4, 0);
    put_str(o, NFTA_CHAIN_TABLE, TABLE);
    put_str(o, NFTA_CHAIN_NAME, in ? "in" : "out");
    put_str(o, NFTA_CHAIN_TYPE, "filter");
    size_t hook = nest(o, NFTA_CHAIN_HOOK);
    put_u32(o, NFTA_HOOK_HOOKNUM, in ? NF_INET_LOCAL_IN : NF_INET_LOCAL_OUT);
    put_u32(o, NFTA_HOOK_PRIORITY, 0);
    end_nest(o, hook);
    end(o, msg);
}

static void put_table(struct out *o, uint16_t type, uint16_t flags)
{
    size_t msg = begin(o, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, NFPROTO_IPV4, 0);
    put_str(o, NFTA_TABLE_NAME, TABLE);
    end(o, msg);
}

/* One transaction: the old table goes, the new one comes. */
static void set_rules(const struct fault *f)
{
    struct out o = {.len = 0};
    size_t msg = begin(&o, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    end(&o, msg);
    put_table(&o, NFT_MSG_NEWTABLE, NLM_F_CREATE); /* there may be none to delete */
    put_table(&o, NFT_MSG_DELTABLE, 0);
    if (f->kind != CLEAR) {
        put_table(&o, NFT_MSG_NEWTABLE, NLM_F_CREATE);
        put_chain(&o, true);
        put_chain(&o, false);
        put_rule(&o, f, true);
        if (f->kind != DELAY)
            put_rule(&o, f, false);
    }
    put_table(&o, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK); /* the one that is acknowledged */
    if (f->kind == CLEAR)
        put_table(&o, NFT_MSG_DELTABLE, 0);
    msg = begin(&o, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    end(&o, msg);
    int fd = connect_netlink();
    send_all(fd, &o);
    expect_ack(fd, "nf_tables");
    close(fd);
}

/* ---- the queue: packets wait in a heap until they are due
 * --------------------------------------------------------------------- */

struct packet {
    uint64_t due_ns; /* CLOCK_MONOTONIC */
    uint32_t id;     /* the kernel's */
};

static struct packet heap[QUEUE_MAX];
static size_t waiting;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Of packets that are due at one time the older one goes first. */
static bool before(const struct packet *a, const struct packet *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : (int32_t)(a->id - b->id) < 0;
}

static void heap_push(struct packet p)
{
    size_t i = waiting++;
    for (; i > 0 && before(&p, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = p;
}

static struct packet heap_pop(void)
{
    struct packet first = heap[0], p = heap[--waiting];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < waiting) {
        if (child + 1 < waiting && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &p))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = p;
    return first;
}

static void verdict(int fd, uint32_t id, uint32_t what)
{
    struct out o;
    o.len = 0;
    size_t msg = begin(&o, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT, 0, AF_UNSPEC, QUEUE);
    struct nfqnl_msg_verdict_hdr v = {.verdict = htonl(what), .id = htonl(id)};
    put(&o, NFQA_VERDICT_HDR, &v, sizeof v);
    end(&o, msg);
    send_all(fd, &o);
}

static void open_queue(int fd)
{
    struct out o = {.len = 0};
    size_t msg = begin(&o, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, AF_UNSPEC, QUEUE);
    struct nfqnl_msg_config_cmd bind_cmd = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET)};
    put(&o, NFQA_CFG_CMD, &bind_cmd, sizeof bind_cmd);
    end(&o, msg);
    send_all(fd, &o);
    expect_ack(fd, "queue");
    o.len = 0;
    msg = begin(&o, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, AF_UNSPEC, QUEUE);
    struct nfqnl_msg_config_params params = {.copy_range = 0, .copy_mode = NFQNL_COPY_META};
    put(&o, NFQA_CFG_PARAMS, &params, sizeof params);
    put_u32(&o, NFQA_CFG_QUEUE_MAXLEN, QUEUE_MAX);
    put_u32(&o, NFQA_CFG_FLAGS, NFQA_CFG_F_GSO);
    put_u32(&o, NFQA_CFG_MASK, NFQA_CFG_F_GSO);
    end(&o, msg);
    send_all(fd, &o);
    expect_ack(fd, "queue parameters");
    int one = 1, room = 16 << 20;
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
}

struct delay {
    double ms, jitter_ms;
    uint32_t loss; /* percent */
    uint64_t seed; /* of the generator */
};

static uint32_t next_random(struct delay *d) /* xorshift64* */
{
    d->seed ^= d->seed >> 12;
    d->seed ^= d->seed << 25;
    d->seed ^= d->seed >> 27;
    return (uint32_t)(d->seed * 0x2545f4914f6cdd1dULL >> 32);
}

static void arrived(int fd, struct delay *d, const struct nlmsghdr *h)
{
    const unsigned char *at = (const unsigned char *)h + NLMSG_SPACE(sizeof(struct nfgenmsg));
    const unsigned char *stop = (const unsigned char *)h + h->nlmsg_len;
    while (at + NLA_HDRLEN <= stop) {
        const struct nlattr *a = (const void *)at;
        if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR) {
            const struct nfqnl_msg_packet_hdr *p = (const void *)(at + NLA_HDRLEN);
            uint32_t id = ntohl(p->packet_id);
            if (next_random(d) % 100 < d->loss || waiting == QUEUE_MAX) {
                verdict(fd, id, NF_DROP);
                return;
            }
            double ms = d->ms + d->jitter_ms * (2.0 * next_random(d) / UINT32_MAX - 1);
            heap_push((struct packet){now_ns() + (uint64_t)((ms > 0 ? ms : 0) * 1e6), id});
            return;
        }
        if (a->nla_len < NLA_HDRLEN)
            return;
        at += NLA_ALIGN(a->nla_len);
    }
}

static void serve_queue(int fd, struct delay *d)
{
    static _Alignas(8) unsigned char buf[1 << 16];
    for (;;) {
        uint64_t now = now_ns();
        while (waiting > 0 && heap[0].due_ns <= now)
            verdict(fd, heap_pop().id, NF_ACCEPT);
        struct timespec wait = {1, 0};
        if (waiting > 0) {
            uint64_t left = heap[0].due_ns - now;
            wait = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (ppoll(&p, 1, &wait, NULL) < 0 && errno != EINTR)
            die("poll");
        ssize_t n;
        while ((n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0) {
            struct nlmsghdr *h = (void *)buf;
            for (; NLMSG_OK(h, n); h = next_message(h, &n)) {
                if (h->nlmsg_type == (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
                    arrived(fd, d, h);
            }
        }
    }
}

static int usage(void)
{
    fprintf(stderr,
            "usage: netfault IFACE clear | partition [PEER] | reset [PEER] | loss PERCENT | "
            "delay MS JITTER_MS LOSS\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"clear", "partition", "reset", "loss", "delay"};
    struct fault f = {.kind = CLEAR};
    unsigned kind = 0;
    if (argc < 3 || strlen(argv[1]) >= IFNAMSIZ)
        return usage();
    while (kind <= DELAY && strcmp(argv[2], kinds[kind]) != 0)
        kind++;
    f.kind = kind;
    memcpy(f.iface, argv[1], strlen(argv[1]));
    if (kind > DELAY || (kind == LOSS && argc != 4) || (kind == DELAY && argc != 6))
        return usage();
    if (kind == LOSS)
        f.percent = (uint32_t)strtoul(argv[3], NULL, 10);
    if ((kind == PARTITION || kind == RESET) && argc == 4) {
        f.one_peer = true;
        if (inet_pton(AF_INET, argv[3], &f.peer) != 1)
            return usage();
    }
    if (kind != DELAY) {
        set_rules(&f);
        return 0;
    }
    struct delay d = {.ms = strtod(argv[3], NULL), .jitter_ms = strtod(argv[4], NULL)};
    d.loss = (uint32_t)strtoul(argv[5], NULL, 10);
    d.seed = now_ns() | 1;
    int fd = connect_netlink();
    open_queue(fd);
    set_rules(&f);
    puts("on");
    fflush(stdout);
    serve_queue(fd, &d);
    return 0;
}
