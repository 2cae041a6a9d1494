/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

int main(void)
{
    int failed = net_test_timers() + net_test_tasks() + net_test_conn() + net_test_connect() +
                 net_test_listen() + net_test_poll() + net_test_sim();

    return failed ? 1 : 0;
}
