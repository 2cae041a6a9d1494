/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the store answer? What the last request found that says something of the store decides,
 * whatever it asked for. A refusal (403, 404) is an answer. Of a get, an answer that is wrong or
 * a file that cannot be read says nothing of the store: that is about one object.
 */
#include <errno.h>

#include "ufs/ufs_priv.h"

bool tarn_ufs_answer(int rc)
{
    switch (-rc) {
    case 0:
    case TARN_E_UFS_NOT_FOUND:
    case TARN_E_UFS_DENIED:
    case TARN_E_UFS_SIGNATURE:
    case TARN_E_UFS_CREDENTIALS:
    case TARN_E_UFS_NO_BUCKET:
        return true;
    default:
        return false;
    }
}

static bool health_unreachable(int rc)
{
    switch (-rc) {
    case TARN_E_UFS_DNS:
    case TARN_E_UFS_REFUSED:
    case TARN_E_UFS_TLS:
    case TARN_E_UFS_STALLED:
    case TARN_E_UFS_THROTTLED:
    case TARN_E_UFS_SERVER:
    case TARN_E_UFS_CONN:
    case TARN_E_UFS_DOWN:
        return true;
    default:
        return false;
    }
}

bool tarn_ufs_no_answer(int rc)
{
    if (health_unreachable(rc))
        return true;
    switch (-rc) {
    case TARN_E_UFS_SHORT:
    case TARN_E_UFS_LIED:
    case TARN_E_UFS_PROTO:
        return true;
    case EACCES:
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOENT:
    case ENOTDIR:
    case EPERM:
        return false; /* of this name */
    default:
        return rc < 0 && rc > -1000; /* a local disk or its file server failed */
    }
}

void tarn_ufs_health_note(struct tarn_ufs *u, int kind, int rc, const struct tarn_errbuf *err)
{
    struct tarn_ufs_health *h = &u->health;
    bool get = kind == UFS_KIND_GET, was_down = h->rc < 0;

    if (tarn_ufs_answer(rc) || (get && rc == -TARN_E_UFS_CHANGED)) {
        h->rc = 0;
        h->err.text[0] = 0;
        h->heard_ns = tarn_loop_now_ns(u->loop);
    } else if (get ? health_unreachable(rc) : tarn_ufs_no_answer(rc)) {
        h->rc = rc;
        h->err = *err;
        if (was_down)
            return;
        h->down_since_ns = tarn_loop_now_ns(u->loop);
        if (u->went_down)
            u->went_down(u->went_down_arg);
    }
}

void tarn_ufs_unanswered(struct tarn_ufs *u, int rc, const struct tarn_errbuf *err)
{
    tarn_loop_assert_mine(u->loop);
    if (u->health.rc == 0)
        tarn_ufs_health_note(u, UFS_KIND_CHECK, rc, err);
}

const struct tarn_ufs_health *tarn_ufs_health(const struct tarn_ufs *u)
{
    return &u->health;
}

void tarn_ufs_watch(struct tarn_ufs *u, void (*went_down)(void *arg), void *arg)
{
    u->went_down = went_down;
    u->went_down_arg = arg;
}
