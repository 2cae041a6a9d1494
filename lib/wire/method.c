/* SPDX-License-Identifier: Apache-2.0 */
/* The table of calls, made from rpc.def; a number is its own index. */
#include "lib/wire/wire.h"

#include "lib/wire/messages.h"
#include "lib/wire/tarn.pb-c.h"

#define METHOD_YES true
#define METHOD_NO  false

static const struct tarn_rpc_method method_table[TARN_RPC_NR_MAX] = {
#define TARN_RPC(nr, name, req, resp, idem, leader, group)                                         \
    [nr] = {(nr), #name, &TARN_MSG_##req, &TARN_MSG_##resp, METHOD_##idem, METHOD_##leader, #group},
#define TARN_RPC_NOTICE(nr, name, msg, group)                                                      \
    [nr] = {(nr), #name, &TARN_MSG_##msg, NULL, false, false, #group},
#include "lib/wire/rpc.def"
#undef TARN_RPC
#undef TARN_RPC_NOTICE
};

const struct tarn_rpc_method *tarn_rpc_method(uint32_t nr)
{
    if (nr >= TARN_RPC_NR_MAX || !method_table[nr].name)
        return NULL;
    return &method_table[nr];
}
