/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/list.h — intrusive doubly linked list. A list and a node are the same struct; an
 * unlinked node points at itself after init or del. Lock: the user's.
 */
#pragma once

#include <stdbool.h>

#include "lib/base/mem.h"

struct tarn_list {
    struct tarn_list *next; /* first, or the next node */
    struct tarn_list *prev; /* last, or the previous node */
};

static inline void tarn_list_init(struct tarn_list *l)
{
    l->next = l;
    l->prev = l;
}

static inline bool tarn_list_empty(const struct tarn_list *l)
{
    return l->next == l;
}

static inline void tarn_list_insert_between(struct tarn_list *n, struct tarn_list *prev,
                                            struct tarn_list *next)
{
    n->prev = prev;
    n->next = next;
    prev->next = n;
    next->prev = n;
}

static inline void tarn_list_push(struct tarn_list *l, struct tarn_list *n) /* at the end */
{
    tarn_list_insert_between(n, l->prev, l);
}

static inline void tarn_list_push_front(struct tarn_list *l, struct tarn_list *n)
{
    tarn_list_insert_between(n, l, l->next);
}

static inline void tarn_list_del(struct tarn_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    tarn_list_init(n);
}

/* The first node, unlinked; NULL when empty. */
static inline struct tarn_list *tarn_list_pop(struct tarn_list *l)
{
    struct tarn_list *n = l->next;

    if (n == l)
        return NULL;
    tarn_list_del(n);
    return n;
}

/* Moves all nodes of `from` to the end of `to`; `from` is empty afterwards. */
static inline void tarn_list_splice(struct tarn_list *to, struct tarn_list *from)
{
    if (tarn_list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    tarn_list_init(from);
}

#define TARN_LIST_ENTRY(node, type, member) TARN_CONTAINER(node, type, member)
#define TARN_LIST_FOREACH(it, list)                                                                \
    for (struct tarn_list *it = (list)->next; it != (list); it = it->next)
/* The body may delete `it`. */
#define TARN_LIST_FOREACH_SAFE(it, list)                                                           \
    for (struct tarn_list *it = (list)->next, *it##_next = it->next; it != (list);                 \
         it = it##_next, it##_next = it->next)
